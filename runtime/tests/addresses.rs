//! What the managed listeners say of addresses, their own and those of their peers, in both flavours.
#![cfg(upgrades)]

use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};

use socket2::{Domain, SockAddr, Socket, Type};
use tableflip::{Address, Service, testing};

/// Runs a service with a listener of this type, in threads and in tasks, whose body says its own address and then that of
/// each peer; `$with` is what listens to it.
macro_rules! in_both_flavours {
    ($listener:ident, $address:expr, $with:expr) => {{
        let (say, said) = mpsc::channel();
        let service = Service::new().listen("echo", $address);
        let running = testing::start_blocking(service, move |start| {
            let echo: tableflip::blocking::$listener = start.listener("echo")?;
            Ok(move || {
                say.send(echo.local_addr().unwrap()).unwrap();
                while let Some((_stream, peer)) = echo.accept().unwrap() {
                    say.send(peer).unwrap();
                }
            })
        });
        $with(&said);
        running.unwrap().stop();

        #[cfg(feature = "tokio")]
        {
            let (say, said) = mpsc::channel();
            let service = Service::new().listen("echo", $address);
            let running = testing::start(service, move |start| {
                let echo: tableflip::net::$listener = start.listener("echo")?;
                Ok(Box::pin(async move {
                    say.send(echo.local_addr().unwrap()).unwrap();
                    loop {
                        let (_stream, peer) = echo.accept().await.unwrap();
                        say.send(peer).unwrap();
                    }
                }))
            });
            $with(&said);
            running.unwrap().stop();
        }
    }};
}

/// What can be told of a Unix address.
fn parts(address: &SocketAddr) -> (Option<&Path>, Option<&[u8]>, bool) {
    (address.as_pathname(), address.as_abstract_name(), address.is_unnamed())
}

#[track_caller]
fn is(said: &Receiver<SocketAddr>, expected: &SocketAddr) {
    let said = said.recv().expect("the body says it");
    assert_eq!(parts(&said), parts(expected));
    assert_eq!(format!("{said:?}"), format!("{expected:?}"));
}

#[test]
fn of_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let unique = dir.path().file_name().unwrap().to_str().unwrap();
    let (path, name) = (dir.path().join("echo"), format!("{unique}\u{e9}"));
    let hidden = SocketAddr::from_abstract_name(&name).unwrap();
    let visible = SocketAddr::from_pathname(&path).unwrap();
    let connect = |to: &SocketAddr, from: Option<&SockAddr>| {
        let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        if let Some(from) = from {
            client.bind(from).unwrap();
        }
        match to.as_pathname() {
            Some(path) => client.connect(&SockAddr::unix(path).unwrap()).unwrap(),
            None => client.connect(&SockAddr::unix(format!("\0{name}")).unwrap()).unwrap(),
        }
        UnixStream::from(std::os::fd::OwnedFd::from(client))
    };
    for (text, address) in
        [(format!("unix:@{name}"), &hidden), (format!("unix://{}", path.display()), &visible)]
    {
        in_both_flavours!(UnixListener, text.as_str(), |said: &Receiver<SocketAddr>| {
            is(said, address);
            let client = connect(address, None);
            is(said, &client.local_addr().unwrap());
            let client = connect(address, Some(&SockAddr::unix(format!("\0{unique}-client")).unwrap()));
            is(said, &client.local_addr().unwrap());
            let at = dir.path().join("client");
            let client = connect(address, Some(&SockAddr::unix(&at).unwrap()));
            is(said, &client.local_addr().unwrap());
            std::fs::remove_file(at).unwrap();
        });
    }
}

#[test]
fn of_tcp_sockets() {
    for address in ["tcp://127.0.0.1:0", "tcp://[::1]:0"] {
        if address.contains("::1") && std::net::TcpListener::bind("[::1]:0").is_err() {
            eprintln!("skipped: no IPv6 here");
            continue;
        }
        let listens = |said: &Receiver<std::net::SocketAddr>| {
            let own = said.recv().unwrap();
            assert_eq!(format!("tcp://{own}"), address.replace(":0", &format!(":{}", own.port())));
            let client = TcpStream::connect(own).unwrap();
            assert_eq!(said.recv().unwrap(), client.local_addr().unwrap());
        };
        in_both_flavours!(TcpListener, address, listens);
        // An expression of the attribute may be of each of these types as well.
        in_both_flavours!(TcpListener, address.to_owned(), listens);
        in_both_flavours!(TcpListener, address.parse::<Address>().unwrap(), listens);
    }
}
