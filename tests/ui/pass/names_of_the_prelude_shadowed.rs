#![allow(dead_code, non_camel_case_types)]

struct Result;
struct Option;
struct String;
struct str;
struct Ok;
struct Some;
struct Kind;
struct Service;
struct Start;
struct NotAListener;
trait Into {}
trait Termination {}
trait FromListener {}
trait FromHandle {}

#[tableflip::main(listen = [echo = "127.0.0.1:7000"], drain_timeout = "1s")]
async fn service(echo: tableflip::net::TcpListener, shutdown: tableflip::Shutdown) {
    drop((echo, shutdown));
}

#[tableflip::main(listen = [echo = "127.0.0.1:7000"], flavor = "current_thread")]
async fn other(echo: tokio::net::TcpListener, ready: tableflip::Ready) {
    drop((echo, ready));
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
        other();
    }
}
