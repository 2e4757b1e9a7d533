//! The demo with clients for the examples that do not speak plain HTTP. The tests of those examples use the same clients.
//!
//! `cargo run --release -p demo -- --service NAME` builds and executes this program if the service needs it.

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use demo::{Foreign, Make, Setting};
use load::{Certificate, Client, Dns, Http, Lines, Proxy, Version, WebSocket};

fn main() -> ExitCode {
    demo::main(Some(prepare))
}

/// The environment and the client of each service.
fn prepare(name: &str, directory: &Path, address: SocketAddr) -> io::Result<Setting> {
    let tcp = |listener| Setting::default().listen(listener, format!("tcp://{address}"));
    let lines = |listener, ask, answer| tcp(listener).asked_by(make(Lines::tcp(address, ask, answer)));
    Ok(match name {
        "tls" => {
            let certificate = Certificate::make(&directory.join("cert"))?;
            fs::rename(certificate.key, directory.join("key.pem"))?;
            let client = Http::new(address, Version::Http1).trusting(&[&certificate.certificate]);
            tcp("https").asked_by(make(client))
        }
        "tonic" => {
            // HelloRequest { name: "World" }.
            let client = Http::grpc(address, "/greeter.Greeter/SayHello", b"\x0a\x05World");
            tcp("grpc").asked_by(make(client))
        }
        "websocket" => tcp("ws").asked_by(make(WebSocket::new(address))),
        "dns" => {
            // Queries over UDP wait only in the buffer of the socket. By default it has room for some 280, a seventh of a second.
            let udp = tcp("tcp").listen("udp", format!("udp://{address}?recv_buffer=1048576"));
            udp.asked_by(make(Dns::new(address)))
        }
        "redis" => {
            let ping = lines("tcp", "*1\r\n$4\r\nPING\r\n", "+PONG\r\n");
            ping.listen("unix", directory.join("socket"))
        }
        "leader" => lines("status", "who\n", "a process of this service\n"),
        "threads" => lines("lines", "hello\n", "HELLO\n"),
        "echo" => lines("echo", "hello\n", "hello\n"),
        "nginx" => {
            let socket = directory.join("socket");
            let nginx = Proxy::nginx(directory, &socket, address)?;
            Setting::default().listen("http", socket).behind(nginx)
        }
        _ => return Err(io::Error::other(format!("there is no client for `{name}`"))),
    })
}

/// A client of the tests, with the interface of the demo.
struct Asks<C>(C);

impl<C: Client> Foreign for Asks<C> {
    fn ask(&mut self) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>> {
        Box::pin(self.0.ask())
    }

    fn connections(&self) -> u32 {
        self.0.connections()
    }
}

fn make<C: Client + Clone + Sync>(client: C) -> Make {
    Arc::new(move || Box::new(Asks(client.clone())))
}
