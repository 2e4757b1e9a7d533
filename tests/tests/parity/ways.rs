//! The ways of taking a listener: managed, raw of tokio, raw of std, `OwnedFd`, and a user's own type. Each serves in a
//! first process and in its successor.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

use processes::DEADLINE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tableflip::address::Kind;
use tableflip::testing::{self, Running};
use tableflip::{
    Address, FromListener, ListenerSocket, Listeners, Ready, Service, Shutdown, Start, StartError, Upgrader,
    blocking, net,
};
use tokio::io::AsyncWriteExt;

use crate::declared;

const TCP: &str = "tcp://127.0.0.1:0";
const UDP: &str = "udp://127.0.0.1:0";

/// Where the clients of a listener find it.
struct Place<'a> {
    running: &'a Running<()>,
    path: PathBuf,
}

impl Place<'_> {
    fn ip(&self) -> SocketAddr {
        self.running.address("it").unwrap()
    }
}

/// Serves with `start` in two generations, and asks each.
fn two_generations(
    address: impl Fn(&Path) -> String,
    start: impl Fn(Service, Option<&Running<()>>) -> Result<Running<()>, String>,
    ask: impl Fn(Place<'_>) -> String,
) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let service = || declared().listen("it", address(&path));
    let old = start(service(), None).unwrap();
    assert_eq!(ask(Place { running: &old, path: path.clone() }), "1");
    let new = start(service(), Some(&old)).unwrap();
    // From here on there is one process that can answer.
    old.wait();
    assert_eq!(ask(Place { running: &new, path: path.clone() }), "2");
    new.stop();
}

/// The start of a generation, first or not, with an `async` body or a blocking one.
macro_rules! starting {
    ($first:ident, $next:ident, $prepare:expr) => {
        |service, old| match old {
            None => testing::$first(service, $prepare).map_err(|error| error.to_string()),
            Some(old) => old.$next(service, $prepare).map_err(|error| error.to_string()),
        }
    };
}

fn generation(start: &mut Start) -> Result<u64, StartError> {
    Ok(start.handle::<Upgrader>()?.generation())
}

fn tcp(_: &Path) -> String {
    TCP.to_owned()
}

fn udp(_: &Path) -> String {
    UDP.to_owned()
}

fn at_path(scheme: &'static str) -> impl Fn(&Path) -> String {
    move |path| format!("{scheme}://{}", path.to_str().unwrap())
}

fn ask_tcp(place: Place<'_>) -> String {
    io::read_to_string(TcpStream::connect(place.ip()).unwrap()).unwrap()
}

fn ask_unix(place: Place<'_>) -> String {
    io::read_to_string(UnixStream::connect(place.path).unwrap()).unwrap()
}

fn ask_udp(place: Place<'_>) -> String {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.send_to(b"who", place.ip()).unwrap();
    let mut buffer = [0; 16];
    let length = client.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn ask_unix_datagram(place: Place<'_>) -> String {
    let own = place.path.with_extension("client");
    let client = UnixDatagram::bind(&own).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.send_to(b"who", &place.path).unwrap();
    let mut buffer = [0; 16];
    let length = client.recv(&mut buffer).unwrap();
    std::fs::remove_file(own).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn ask_seqpacket(place: Place<'_>) -> String {
    let client = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&client, &SocketAddrUnix::new(place.path).unwrap()).unwrap();
    let mut answer = [0; 16];
    let length = rustix::io::read(&client, &mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// Serves a raw descriptor until the process is to finish: `serve` is called whenever there is something to read.
fn serve_raw(fd: impl AsFd, ready: Ready, shutdown: &Shutdown, mut serve: impl FnMut() -> io::Result<()>) {
    // Nobody counts what a raw listener does. While this is held the process waits.
    let _guard = shutdown.guard();
    ready.notify();
    while !shutdown.is_raised() {
        // There is no descriptor that tells of the shutdown.
        let timeout = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
        match serve() {
            Ok(()) => {}
            // It shares the queue with the other process, which was faster, or nobody has come.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A body that answers each connection of a managed listener.
macro_rules! managed_async_streams {
    ($type:ty) => {
        |start: &mut Start| {
            let (it, generation) = (start.listener::<$type>("it")?, generation(start)?);
            Ok(async move {
                loop {
                    let (mut stream, _) = it.accept().await.unwrap();
                    stream.write_all(generation.to_string().as_bytes()).await.unwrap();
                }
            })
        }
    };
}

/// A body that answers each datagram of a managed socket.
macro_rules! managed_async_datagrams {
    ($type:ty) => {
        |start: &mut Start| {
            let (it, generation) = (start.listener::<$type>("it")?, generation(start)?);
            Ok(async move {
                let mut buffer = [0; 16];
                loop {
                    let (_, sender) = it.recv_from(&mut buffer).await.unwrap();
                    it.send_to(generation.to_string().as_bytes(), sender).await.unwrap();
                }
            })
        }
    };
}

#[test]
fn managed_async_tcp() {
    let prepare = managed_async_streams!(net::TcpListener);
    two_generations(tcp, starting!(start, replace, prepare), ask_tcp);
}

#[test]
fn managed_async_unix() {
    let prepare = managed_async_streams!(net::UnixListener);
    two_generations(at_path("unix"), starting!(start, replace, prepare), ask_unix);
}

#[test]
fn managed_async_udp() {
    let prepare = managed_async_datagrams!(net::UdpSocket);
    two_generations(udp, starting!(start, replace, prepare), ask_udp);
}

#[test]
fn managed_async_unix_datagram() {
    let prepare = managed_async_datagrams!(net::UnixDatagram);
    two_generations(at_path("unix-dgram"), starting!(start, replace, prepare), ask_unix_datagram);
}

#[test]
fn managed_blocking_tcp() {
    let prepare = |start: &mut Start| {
        let (it, generation) = (start.listener::<blocking::TcpListener>("it")?, generation(start)?);
        Ok(move || {
            while let Some((mut stream, _)) = it.accept().unwrap() {
                write!(stream, "{generation}").unwrap();
            }
        })
    };
    two_generations(tcp, starting!(start_blocking, replace_blocking, prepare), ask_tcp);
}

#[test]
fn managed_blocking_unix() {
    let prepare = |start: &mut Start| {
        let (it, generation) = (start.listener::<blocking::UnixListener>("it")?, generation(start)?);
        Ok(move || {
            for stream in it.incoming() {
                write!(stream.unwrap(), "{generation}").unwrap();
            }
        })
    };
    two_generations(at_path("unix"), starting!(start_blocking, replace_blocking, prepare), ask_unix);
}

/// The same on a thread.
macro_rules! managed_blocking_datagrams {
    ($type:ty) => {
        |start: &mut Start| {
            let (it, generation) = (start.listener::<$type>("it")?, generation(start)?);
            Ok(move || {
                let mut buffer = [0; 16];
                while let Some((_, sender)) = it.recv_from(&mut buffer).unwrap() {
                    it.send_to(generation.to_string().as_bytes(), &sender).unwrap();
                }
            })
        }
    };
}

#[test]
fn managed_blocking_udp() {
    let prepare = managed_blocking_datagrams!(blocking::UdpSocket);
    two_generations(udp, starting!(start_blocking, replace_blocking, prepare), ask_udp);
}

#[test]
fn managed_blocking_unix_datagram() {
    let prepare = managed_blocking_datagrams!(blocking::UnixDatagram);
    let ask = ask_unix_datagram;
    two_generations(at_path("unix-dgram"), starting!(start_blocking, replace_blocking, prepare), ask);
}

/// A body with a raw listener of tokio, which needs `Ready` and has to await `Shutdown`.
macro_rules! raw_tokio_listener {
    ($type:ty) => {
        |start: &mut Start| {
            let (it, generation) = (start.listener::<$type>("it")?, generation(start)?);
            let (ready, mut shutdown) = (start.handle::<Ready>()?, start.handle::<Shutdown>()?);
            Ok(async move {
                ready.notify();
                loop {
                    tokio::select! {
                        () = &mut shutdown => return,
                        accepted = it.accept() => {
                            let (mut stream, _) = accepted.unwrap();
                            stream.write_all(generation.to_string().as_bytes()).await.unwrap();
                        }
                    }
                }
            })
        }
    };
}

#[test]
fn raw_tokio_tcp() {
    let prepare = raw_tokio_listener!(tokio::net::TcpListener);
    two_generations(tcp, starting!(start, replace, prepare), ask_tcp);
}

#[test]
fn raw_tokio_unix() {
    let prepare = raw_tokio_listener!(tokio::net::UnixListener);
    two_generations(at_path("unix"), starting!(start, replace, prepare), ask_unix);
}

/// The same for datagrams. `$to`: the address of a sender, as `send_to` takes it.
macro_rules! raw_tokio_datagrams {
    ($type:ty, $to:expr) => {
        |start: &mut Start| {
            let (it, generation) = (start.listener::<$type>("it")?, generation(start)?);
            let (ready, mut shutdown) = (start.handle::<Ready>()?, start.handle::<Shutdown>()?);
            Ok(async move {
                ready.notify();
                let mut buffer = [0; 16];
                loop {
                    tokio::select! {
                        () = &mut shutdown => return,
                        received = it.recv_from(&mut buffer) => {
                            let (_, sender) = received.unwrap();
                            it.send_to(generation.to_string().as_bytes(), $to(&sender)).await.unwrap();
                        }
                    }
                }
            })
        }
    };
}

#[test]
fn raw_tokio_udp() {
    let prepare = raw_tokio_datagrams!(tokio::net::UdpSocket, |sender: &SocketAddr| *sender);
    two_generations(udp, starting!(start, replace, prepare), ask_udp);
}

#[test]
fn raw_tokio_unix_datagram() {
    fn path(sender: &tokio::net::unix::SocketAddr) -> &Path {
        sender.as_pathname().unwrap()
    }
    let prepare = raw_tokio_datagrams!(tokio::net::UnixDatagram, path);
    two_generations(at_path("unix-dgram"), starting!(start, replace, prepare), ask_unix_datagram);
}

/// A body with a raw listener of std, which needs `Ready`, has to look at `Shutdown`, and polls, because the listener does not block.
macro_rules! raw_std {
    ($type:ty, $serve:expr) => {
        |start: &mut Start| {
            let (it, generation) = (start.listener::<$type>("it")?, generation(start)?);
            let (ready, shutdown) = (start.handle::<Ready>()?, start.handle::<Shutdown>()?);
            Ok(move || serve_raw(&it, ready, &shutdown, || $serve(&it, generation)))
        }
    };
}

#[test]
fn raw_std_tcp() {
    let prepare = raw_std!(std::net::TcpListener, |it: &std::net::TcpListener, generation| {
        write!(it.accept()?.0, "{generation}")
    });
    two_generations(tcp, starting!(start_blocking, replace_blocking, prepare), ask_tcp);
}

#[test]
fn raw_std_unix() {
    let prepare =
        raw_std!(std::os::unix::net::UnixListener, |it: &std::os::unix::net::UnixListener, generation| {
            write!(it.accept()?.0, "{generation}")
        });
    two_generations(at_path("unix"), starting!(start_blocking, replace_blocking, prepare), ask_unix);
}

#[test]
fn raw_std_udp() {
    let prepare = raw_std!(UdpSocket, |it: &UdpSocket, generation: u64| {
        let (_, sender) = it.recv_from(&mut [0; 16])?;
        it.send_to(generation.to_string().as_bytes(), sender).map(drop)
    });
    two_generations(udp, starting!(start_blocking, replace_blocking, prepare), ask_udp);
}

#[test]
fn raw_std_unix_datagram() {
    let prepare = raw_std!(UnixDatagram, |it: &UnixDatagram, generation: u64| {
        let (_, sender) = it.recv_from(&mut [0; 16])?;
        it.send_to_addr(generation.to_string().as_bytes(), &sender).map(drop)
    });
    let ask = ask_unix_datagram;
    two_generations(at_path("unix-dgram"), starting!(start_blocking, replace_blocking, prepare), ask);
}

/// Go: `unixpacket` of `TestFdsListen`. No type of std is for it.
#[test]
fn owned_fd_unix_seqpacket() {
    let prepare = raw_std!(OwnedFd, |it: &OwnedFd, generation: u64| {
        let client = rustix::net::accept(it)?;
        rustix::io::write(&client, generation.to_string().as_bytes())?;
        io::Result::Ok(())
    });
    let ask = ask_seqpacket;
    two_generations(at_path("unix-seqpacket"), starting!(start_blocking, replace_blocking, prepare), ask);
}

#[test]
fn owned_fd_tcp() {
    let prepare = raw_std!(OwnedFd, |it: &OwnedFd, generation: u64| {
        let client = rustix::net::accept(it)?;
        rustix::io::write(&client, generation.to_string().as_bytes())?;
        io::Result::Ok(())
    });
    two_generations(tcp, starting!(start_blocking, replace_blocking, prepare), ask_tcp);
}

/// A type of a user's own, raw: what another crate would add.
struct Raw {
    name: String,
    address: Address,
    bound: SocketAddr,
    listener: std::net::TcpListener,
}

impl FromListener for Raw {
    const KINDS: &'static [Kind] = &[Kind::Tcp];

    fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
        let (name, address) = (socket.name().to_owned(), socket.address().clone());
        let bound = std::net::TcpListener::from(socket.as_fd().try_clone_to_owned()?).local_addr()?;
        Ok(Self { name, address, bound, listener: socket.into_fd()?.into() })
    }
}

#[test]
fn a_type_of_ones_own() {
    let prepare = |start: &mut Start| {
        let (it, generation) = (start.listener::<Raw>("it")?, generation(start)?);
        assert_eq!((it.name.as_str(), it.address.to_string().as_str()), ("it", TCP));
        assert_eq!(it.listener.local_addr().unwrap(), it.bound);
        let (ready, shutdown) = (start.handle::<Ready>()?, start.handle::<Shutdown>()?);
        Ok(move || {
            serve_raw(&it.listener, ready, &shutdown, || write!(it.listener.accept()?.0, "{generation}"));
        })
    };
    two_generations(tcp, starting!(start_blocking, replace_blocking, prepare), ask_tcp);
}

/// A type of a user's own around a managed one, which is then managed as well.
struct Wrapped(net::TcpListener);

impl FromListener for Wrapped {
    const MANAGED: bool = net::TcpListener::MANAGED;
    const KINDS: &'static [Kind] = net::TcpListener::KINDS;

    fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
        net::TcpListener::from_listener(socket).map(Self)
    }
}

#[test]
fn a_type_of_ones_own_around_a_managed_one() {
    let prepare = |start: &mut Start| {
        let (it, generation) = (start.listener::<Wrapped>("it")?, generation(start)?);
        Ok(async move {
            loop {
                let (mut stream, _) = it.0.accept().await.unwrap();
                stream.write_all(generation.to_string().as_bytes()).await.unwrap();
            }
        })
    };
    two_generations(tcp, starting!(start, replace, prepare), ask_tcp);
}

/// A type of a user's own that cannot be made, which says why.
#[derive(Debug)]
struct Impossible;

impl FromListener for Impossible {
    const KINDS: &'static [Kind] = &[Kind::Tcp, Kind::Unix];

    fn from_listener(_: ListenerSocket<'_>) -> io::Result<Self> {
        Err(io::Error::other("the certificate has expired"))
    }
}

#[test]
fn a_listener_that_cannot_be_taken_stops_the_start() {
    fn problem<T: FromListener>(address: &str, name: &'static str) -> String {
        let started = testing::start_blocking(declared().listen("it", address), move |start| {
            let _it: T = start.listener(name)?;
            Ok(|| ())
        });
        started.unwrap_err().to_string()
    }
    let expired = "listener `it`: cannot prepare it: the certificate has expired";
    assert_eq!(problem::<Impossible>(TCP, "it"), expired);
    let another = "listener `it`: udp://127.0.0.1:0 is taken as a type for tcp://, unix://";
    assert_eq!(problem::<Impossible>(UDP, "it"), another);
    assert_eq!(problem::<OwnedFd>(TCP, "that"), "listener `that`: it is not declared");
    let unseen = "not ready: every listener is taken as a raw type, so nobody sees when the body serves; take a \
                  managed type, or `tableflip::Ready`";
    assert_eq!(problem::<OwnedFd>(TCP, "it"), unseen);

    let twice = testing::start_blocking(declared().listen("it", TCP), |start| {
        let _it: OwnedFd = start.listener("it")?;
        let _again: OwnedFd = start.listener("it")?;
        Ok(|| ())
    });
    assert_eq!(twice.unwrap_err().to_string(), "listener `it`: it has been taken already");
    let forgotten = testing::start_blocking(declared().listen("it", TCP), |_| Ok(|| ()));
    let expected = "listener `it`: it is declared, and the body does not take it";
    assert_eq!(forgotten.unwrap_err().to_string(), expected);
}

/// The raw types of std do not block, whoever bound the socket: O_NONBLOCK is shared with the other processes.
#[test]
fn a_raw_listener_does_not_block() {
    let service = testing::start_blocking(declared().listen("it", TCP), |start| {
        let it: std::net::TcpListener = start.listener("it")?;
        let (ready, shutdown) = (start.handle::<Ready>()?, start.handle::<Shutdown>()?);
        Ok(move || {
            assert_eq!(it.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            ready.notify();
            shutdown.wait();
        })
    });
    let service = service.unwrap();
    // The queue is there, though nobody serves it.
    let mut stream = TcpStream::connect(service.address("it").unwrap()).unwrap();
    service.stop();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => assert_eq!(rest, b""),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

/// A body that has its listener from a callback, or from its predecessor, and serves it; `$blocks` is called before it is taken.
macro_rules! with_a_callback {
    ($listener:ty, $blocks:expr, $made:expr) => {
        |start: &mut Start| {
            let (listeners, generation) = (start.handle::<Listeners>()?, generation(start)?);
            let (ready, shutdown) = (start.handle::<Ready>()?, start.handle::<Shutdown>()?);
            Ok(async move {
                $blocks();
                let it: $listener = listeners.bind_with("it", TCP, $made).unwrap();
                ready.notify();
                let serve = async {
                    loop {
                        let (mut stream, _) = it.accept().await.unwrap();
                        stream.write_all(generation.to_string().as_bytes()).await.unwrap();
                    }
                };
                tokio::select! {
                    () = shutdown => {}
                    () = serve => {}
                }
            })
        }
    };
}

/// K2: tokio panics at a socket that blocks, or hangs in it. One comes from a callback of the body; and the same one, made to
/// block again while the successor starts, from a predecessor.
#[test]
fn k2_a_socket_that_blocks_is_taken_as_a_type_of_tokio() {
    macro_rules! two_generations_of {
        ($listener:ty) => {{
            let made = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = made.local_addr().unwrap();
            let (first, shared) = (made.try_clone().unwrap(), made);
            let prepare = with_a_callback!($listener, || (), move |_: &Address| io::Result::Ok(first));
            let old = testing::start(declared(), prepare).unwrap();
            assert_eq!(io::read_to_string(TcpStream::connect(address).unwrap()).unwrap(), "1");
            let prepare = with_a_callback!(
                $listener,
                || shared.set_nonblocking(false).unwrap(),
                |_: &Address| -> io::Result<std::net::TcpListener> { panic!("it is inherited") }
            );
            let new: Running<()> = old.replace(declared(), prepare).unwrap();
            old.wait();
            assert_eq!(io::read_to_string(TcpStream::connect(address).unwrap()).unwrap(), "2");
            new.stop();
        }};
    }
    two_generations_of!(tokio::net::TcpListener);
    two_generations_of!(net::TcpListener);
}
