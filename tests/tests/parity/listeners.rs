//! `Listen`, `ListenWithCallback`, `Listener`, `AddListener` and their packet twins, as `Listeners`: addresses that only the body
//! knows.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use processes::DEADLINE;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tableflip::testing::{self, Running};
use tableflip::{Failure, Listeners, StartError};
use tests::client::wait_until_refused;

use crate::{body, declared};

/// Which socket it is: the same one in every process that has it.
fn identity(fd: impl AsFd) -> u64 {
    File::from(fd.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap().ino()
}

/// What a test shows of the listeners of one process.
type Seen = Arc<Mutex<Vec<u64>>>;

/// Every kind of address, less the options: with the paths in `dir`.
fn every_kind(dir: &Path) -> Vec<(&'static str, String)> {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let hidden = |name: &str| format!("{}-{name}", dir.file_name().unwrap().to_str().unwrap());
    vec![
        ("tcp", "tcp://localhost:0".to_owned()),
        ("tcp-again", "localhost:0".to_owned()),
        ("tcp6", "tcp://[::1]:0".to_owned()),
        ("udp", "udp://localhost:0".to_owned()),
        ("udp-again", "udp://localhost:0".to_owned()),
        ("unix", format!("unix://{}", path("unix"))),
        ("unix-dgram", format!("unix-dgram://{}", path("dgram"))),
        ("unix-seqpacket", format!("unix-seqpacket://{}", path("seqpacket"))),
        ("abstract", format!("unix:@{}", hidden("stream"))),
        ("abstract-dgram", format!("unix-dgram:@{}", hidden("dgram"))),
        ("abstract-seqpacket", format!("unix-seqpacket:@{}", hidden("seqpacket"))),
    ]
}

/// Go: `TestFdsListen`, `TestFdsListenDynamicPort`, `TestFdsListenPacketDynamicPort`; and `TestFdsListen` of package
/// `testing`.
/// An error with its sources, as a process writes it to stderr.
fn said(error: impl Into<Failure>) -> String {
    error.into().to_string()
}

#[test]
fn listeners_of_every_kind_are_bound_and_inherited() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = every_kind(dir.path());
    let seen: Seen = Seen::default();
    let old = {
        let (kinds, seen) = (kinds.clone(), seen.clone());
        testing::start_blocking(
            declared(),
            body(move |kit| {
                for (name, address) in &kinds {
                    let none = kit.listeners.take::<OwnedFd>(name, address.as_str());
                    assert!(none.unwrap().is_none(), "{name}: there is nobody to inherit it from");
                    let fd: OwnedFd = kit.listeners.bind(name, address.as_str()).unwrap();
                    seen.lock().unwrap().push(identity(&fd));
                }
            }),
        )
    };
    let old = old.unwrap();
    let bound = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(bound.len(), kinds.len());

    // `bind` inherits what there is, `take` does nothing else.
    let new = {
        let (kinds, seen) = (kinds.clone(), seen.clone());
        old.replace_blocking(
            declared(),
            body(move |kit| {
                for (at, (name, address)) in kinds.iter().enumerate() {
                    let fd: OwnedFd = if at % 2 == 0 {
                        kit.listeners.bind(name, address.as_str()).unwrap()
                    } else {
                        kit.listeners.take(name, address.as_str()).unwrap().expect("it is inherited")
                    };
                    seen.lock().unwrap().push(identity(&fd));
                }
            }),
        )
    };
    let new = new.unwrap();
    assert_eq!(*seen.lock().unwrap(), bound);
    old.wait();
    new.stop();
}

/// Go: `TestFdsAddListener`, `TestFdsAddPacketConn`.
#[test]
fn listeners_that_were_made_elsewhere_are_added_and_inherited() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let address = |scheme: &str, name: &str| format!("{scheme}://{}", path(name).to_str().unwrap());
    let hidden = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
    let hidden_address = UnixAddr::from_abstract_name(&hidden).unwrap();
    let seqpacket = || {
        let family = AddressFamily::UNIX;
        let fd = socket_with(family, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&fd, &SocketAddrUnix::new(path("seqpacket")).unwrap()).unwrap();
        rustix::net::listen(&fd, 1).unwrap();
        fd
    };
    let made: Vec<(&str, String, OwnedFd)> = vec![
        ("tcp", "tcp://localhost:0".into(), std::net::TcpListener::bind("localhost:0").unwrap().into()),
        ("udp", "udp://localhost:0".into(), UdpSocket::bind("localhost:0").unwrap().into()),
        ("unix", address("unix", "unix"), UnixListener::bind(path("unix")).unwrap().into()),
        ("dgram", address("unix-dgram", "dgram"), UnixDatagram::bind(path("dgram")).unwrap().into()),
        ("seqpacket", address("unix-seqpacket", "seqpacket"), seqpacket()),
        ("hidden", format!("unix:@{hidden}"), UnixListener::bind_addr(&hidden_address).unwrap().into()),
    ];
    let declared_now: Vec<_> =
        made.iter().map(|(name, address, fd)| (*name, address.clone(), identity(fd))).collect();
    let old = testing::start_blocking(
        declared(),
        body(move |kit| {
            for (name, address, fd) in made {
                kit.listeners.add(name, address, fd).unwrap();
            }
        }),
    )
    .unwrap();
    let new = old.replace_blocking(
        declared(),
        body(move |kit| {
            for (name, address, made) in declared_now {
                let fd: OwnedFd = kit.listeners.take(name, address).unwrap().expect("it is inherited");
                assert_eq!(identity(&fd), made, "{name}");
            }
        }),
    );
    let new = new.unwrap();
    old.wait();
    // Whoever made the paths, they belong to the service now.
    for name in ["unix", "dgram", "seqpacket"] {
        assert!(path(name).exists(), "{name}");
    }
    new.stop();
    for name in ["unix", "dgram", "seqpacket"] {
        assert!(!path(name).exists(), "{name}");
    }
}

/// Not in Go, which believes what it is given.
#[test]
fn a_socket_that_is_not_what_the_address_says_is_not_added() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let at_path = format!("unix://{}", path.to_str().unwrap());
    let service = testing::start_blocking(
        declared(),
        body(move |kit| {
            let udp = || UdpSocket::bind("127.0.0.1:0").unwrap();
            let tcp = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let client = || TcpStream::connect(tcp().local_addr().unwrap());
            let problem =
                |address: &str, fd: OwnedFd| said(kit.listeners.add("added", address, fd).unwrap_err());
            let says = |said: String, what: &str| assert!(said.contains(what), "{said}");
            says(problem("tcp://127.0.0.1:0", udp().into()), "is of another type (SO_TYPE");
            says(problem("udp://127.0.0.1:0", tcp().into()), "is of another type (SO_TYPE");
            let listener = tcp();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            says(problem("tcp://127.0.0.1:0", stream.into()), "does not listen (SO_ACCEPTCONN)");
            drop(client());
            says(problem("tcp://127.0.0.1:1", tcp().into()), "is bound elsewhere (getsockname 127.0.0.1:");
            says(problem("tcp://[::1]:0", tcp().into()), "is bound elsewhere");
            let unix = UnixListener::bind(&path).unwrap();
            says(problem("tcp://127.0.0.1:0", unix.try_clone().unwrap().into()), "is bound elsewhere");
            says(problem("unix:///somewhere/else", unix.try_clone().unwrap().into()), "is bound elsewhere");
            says(problem("unix:@elsewhere", unix.try_clone().unwrap().into()), "is bound elsewhere");
            says(
                problem("tcp://127.0.0.1:0", File::open("/dev/null").unwrap().into()),
                "cannot be looked at",
            );
            // None of these has taken the name or the address.
            kit.listeners.add("added", at_path, unix).unwrap();
        }),
    );
    service.unwrap().stop();
}

/// Go: `TestFdsListenWithCallback`, `TestUpgraderListenConfig`.
#[test]
fn a_callback_makes_the_socket_unless_it_is_inherited() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let address = |scheme: &str, name: &str| format!("{scheme}://{}", path(name).to_str().unwrap());
    let (unix, dgram) = (address("unix", "unix"), address("unix-dgram", "dgram"));
    let called = Arc::new(Mutex::new(0));
    let generation = || {
        let (unix, dgram, called) = (unix.clone(), dgram.clone(), called.clone());
        body(move |kit| {
            let call = || *called.lock().unwrap() += 1;
            let listeners = &kit.listeners;
            let tcp: std::net::TcpListener = listeners
                .bind_with("tcp", "tcp://localhost:0", |address| {
                    call();
                    assert_eq!(address.to_string(), "tcp://localhost:0");
                    let listener = std::net::TcpListener::bind("localhost:0")?;
                    // An option that an address does not have.
                    listener.set_ttl(42)?;
                    Ok(listener)
                })
                .unwrap();
            assert_eq!(tcp.ttl().unwrap(), 42);
            let udp: UdpSocket = listeners
                .bind_with("udp", "udp://localhost:0", |_| {
                    call();
                    let socket = UdpSocket::bind("localhost:0")?;
                    socket.set_broadcast(true)?;
                    Ok(socket)
                })
                .unwrap();
            assert!(udp.broadcast().unwrap());
            let at_path: UnixListener = listeners
                .bind_with("unix", unix, |address| {
                    call();
                    UnixListener::bind(address.path().unwrap())
                })
                .unwrap();
            assert!(at_path.local_addr().unwrap().as_pathname().is_some());
            let datagrams: UnixDatagram = listeners
                .bind_with("dgram", dgram, |address| {
                    call();
                    UnixDatagram::bind(address.path().unwrap())
                })
                .unwrap();
            assert!(datagrams.local_addr().unwrap().as_pathname().is_some());
        })
    };
    let old = testing::start_blocking(declared(), generation()).unwrap();
    assert_eq!(*called.lock().unwrap(), 4);
    let new = old.replace_blocking(declared(), generation()).unwrap();
    assert_eq!(*called.lock().unwrap(), 4);
    old.wait();
    new.stop();
}

#[test]
fn a_callback_that_fails_says_why() {
    let service = testing::start_blocking(
        declared(),
        body(|kit| {
            let failed = kit.listeners.bind_with::<OwnedFd, OwnedFd>("socket", "tcp://localhost:0", |_| {
                Err(std::io::Error::other("no such luck"))
            });
            let problem = "listener `socket`: cannot make a socket for tcp://localhost:0: no such luck";
            assert_eq!(said(failed.unwrap_err()), problem);
            // One of another kind than it is to be.
            let udp = |_: &tableflip::Address| UdpSocket::bind("localhost:0");
            let failed = kit.listeners.bind_with::<OwnedFd, _>("socket", "tcp://localhost:0", udp);
            let problem = said(failed.unwrap_err());
            assert!(problem.starts_with("listener `socket`: the socket that was made for"), "{problem}");
            // One that the type is not for.
            let failed = kit.listeners.bind::<UdpSocket>("socket", "tcp://localhost:0");
            let problem = "listener `socket`: tcp://localhost:0 is taken as a type for udp://";
            assert_eq!(said(failed.unwrap_err()), problem);
        }),
    );
    service.unwrap().stop();
}

/// Go: `TestFdsListen` binds the empty abstract name, for which the kernel makes one up. Here it is an error: nobody
/// could connect, and a successor could not ask for it.
#[test]
fn an_empty_abstract_name_is_an_error() {
    let service = testing::start_blocking(
        declared(),
        body(|kit| {
            for address in ["unix:@", "unix-dgram:@", "unix-seqpacket:@", "unix:@?backlog=1"] {
                let problem = said(kit.listeners.bind::<OwnedFd>("name", address).unwrap_err());
                let expected = format!(
                    "listener `name`: `{address}` is no address: the abstract name after `@` is empty"
                );
                assert_eq!(problem, expected);
            }
        }),
    );
    service.unwrap().stop();
}

#[test]
fn a_name_and_an_address_are_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket").to_str().unwrap().to_owned();
    let service = declared().listen("declared", format!("unix://{path}"));
    let running = testing::start_blocking(service, |start| {
        let _declared: OwnedFd = start.listener("declared")?;
        body(move |kit| {
            let problem =
                |name: &str, address: &str| said(kit.listeners.bind::<OwnedFd>(name, address).unwrap_err());
            let other_kind = format!("unix-dgram://{path}");
            let same = format!("listener `other`: it has the address of `declared`, unix://{path}");
            assert_eq!(problem("other", &path), same);
            assert_eq!(problem("other", &format!("{path}?backlog=1")), same);
            assert!(problem("other", &other_kind).contains("another process serves it"));
            let same = "listener `declared`: there is one of this name already";
            assert_eq!(problem("declared", "tcp://localhost:0"), same);
            let name = "listener `a b`: a name has 1 to 64 letters, digits, `_` and `-`";
            assert_eq!(problem("a b", "tcp://localhost:0"), name);
            // Each port 0 is another one, and SO_REUSEPORT is for several of one address.
            let tcp: std::net::TcpListener =
                kit.listeners.bind("one", "tcp://127.0.0.1:0?reuse_port=1").unwrap();
            let port = tcp.local_addr().unwrap().port();
            let again = format!("tcp://127.0.0.1:{port}?reuse_port=1");
            let _two: OwnedFd = kit.listeners.bind("two", again.as_str()).unwrap();
            let _three: OwnedFd = kit.listeners.bind("three", again.as_str()).unwrap();
            let without = format!("tcp://127.0.0.1:{port}");
            assert!(problem("four", &without).contains("it has the address of `two`"));
        })(start)
    });
    running.unwrap().stop();
}

/// Not in Go, which declares nothing: what the attribute knows the address of and no parameter takes.
#[test]
fn a_declared_listener_is_taken_by_its_name_in_each_generation() {
    let seen: Seen = Seen::default();
    let service = || declared().listen("declared", "tcp://127.0.0.1:0").listen("taken", "tcp://127.0.0.1:0");
    let generation = || {
        let seen = seen.clone();
        move |start: &mut tableflip::Start| {
            let kit = body(move |kit| {
                let problem = |problem: Result<OwnedFd, StartError>| said(problem.unwrap_err());
                let listeners = &kit.listeners;
                let kind = "listener `declared`: tcp://127.0.0.1:0 is taken as a type for udp://";
                assert_eq!(said(listeners.declared::<UdpSocket>("declared").unwrap_err()), kind);
                let unknown = "listener `other`: it is not declared";
                assert_eq!(problem(listeners.declared("other")), unknown);
                // One of this name is bound already.
                let same = "listener `declared`: there is one of this name already";
                assert_eq!(problem(listeners.bind("declared", "tcp://127.0.0.2:0")), same);
                let made = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let added = listeners.add("declared", "tcp://127.0.0.1:0", made);
                assert_eq!(said(added.unwrap_err()), same);

                let it: OwnedFd = listeners.declared("declared").unwrap();
                seen.lock().unwrap().push(identity(&it));
                let again = "listener `declared`: it has been taken already";
                assert_eq!(problem(listeners.declared("declared")), again);
                assert_eq!(problem(listeners.bind("declared", "tcp://127.0.0.1:0")), same);
                let parameter = "listener `taken`: it has been taken already";
                assert_eq!(problem(listeners.declared("taken")), parameter);
            })(start)?;
            // After `Listeners`, as a later parameter.
            let _taken: OwnedFd = start.listener("taken")?;
            Ok(kit)
        }
    };
    let old = testing::start_blocking(service(), generation()).unwrap();
    let forgotten = old.replace_blocking(service(), |start| {
        let _taken: OwnedFd = start.listener("taken")?;
        body(|_| ())(start)
    });
    let reason =
        "the successor could not start: listener `declared`: it is declared, and the body does not take it";
    assert_eq!(said(forgotten.unwrap_err()), reason);
    let new = old.replace_blocking(service(), generation()).unwrap();
    old.wait();
    assert_eq!(new.upgrader().status_blocking().listeners.len(), 2);
    new.stop();
    let seen = seen.lock().unwrap();
    assert_eq!((seen.len(), seen[0]), (2, seen[1]));
}

/// Go: `ErrTooLate`-like; once `Ready()` is called, `Fds` still takes listeners there, but no successor that is being
/// started would get them.
#[test]
fn a_listener_that_comes_after_ready_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("late");
    let address = format!("unix://{}", path.to_str().unwrap());
    let (send, receive) = mpsc::channel();
    let service =
        testing::start_blocking(declared(), body(move |kit| send.send(kit.listeners.clone()).unwrap()));
    let service = service.unwrap();
    let listeners: Listeners = receive.recv().unwrap();
    let late = |result: Result<(), StartError>| {
        let problem = "listener `late`: the service is ready; listeners are bound before that";
        assert_eq!(said(result.unwrap_err()), problem);
    };
    late(listeners.bind::<OwnedFd>("late", address.as_str()).map(drop));
    late(listeners.take::<OwnedFd>("late", address.as_str()).map(drop));
    late(listeners.declared::<OwnedFd>("late").map(drop));
    let made = |_: &tableflip::Address| -> std::io::Result<OwnedFd> { panic!("it is not called") };
    late(listeners.bind_with::<OwnedFd, _>("late", address.as_str(), made).map(drop));
    late(listeners.add("late", "udp://localhost:0", UdpSocket::bind("localhost:0").unwrap()));
    assert!(!path.exists());
    service.stop();
}

/// A Unix socket of each kind that has a path.
fn paths(dir: &Path) -> Vec<(&'static str, String)> {
    every_kind(dir)
        .into_iter()
        .filter(|(_, address)| address.starts_with("unix") && !address.contains('@'))
        .collect()
}

fn bind_all(listeners: Vec<(&'static str, String)>) -> impl FnOnce(&mut crate::Kit) + Send {
    move |kit| {
        for (name, address) in listeners {
            // The descriptor is closed at once; the service has its own.
            drop(kit.listeners.bind::<OwnedFd>(name, address).unwrap());
        }
    }
}

/// Go: `TestFdsRemoveUnix`, all three.
#[test]
fn the_paths_of_unix_sockets_are_removed_when_nobody_has_them_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths(dir.path());
    let exist = |expected: bool| {
        for name in ["unix", "dgram", "seqpacket"] {
            assert_eq!(dir.path().join(name).exists(), expected, "{name}");
        }
    };
    let start = || testing::start_blocking(declared(), body(bind_all(paths.clone()))).unwrap();

    // A service that is stopped removes them.
    let service = start();
    exist(true);
    service.stop();
    exist(false);

    // One that is replaced leaves them to its successor.
    let old = start();
    let new = old.replace_blocking(declared(), body(bind_all(paths.clone()))).unwrap();
    old.wait();
    exist(true);
    UnixStream::connect(dir.path().join("unix")).unwrap();

    // What a successor does not take is removed.
    new.upgrader().predecessor_gone_blocking();
    let newer = new.replace_blocking(declared(), body(|_| ())).unwrap();
    new.wait();
    exist(false);
    newer.stop();
}

/// The same for what has no path: nobody serves it, so nobody holds it.
#[test]
fn what_a_successor_does_not_take_is_closed() {
    let (send, receive) = mpsc::channel();
    let old = testing::start_blocking(
        declared(),
        body(move |kit| {
            let kept: std::net::TcpListener = kit.listeners.bind("kept", "tcp://127.0.0.1:0").unwrap();
            let left: std::net::TcpListener = kit.listeners.bind("left", "tcp://127.0.0.1:0").unwrap();
            send.send([kept, left].map(|listener| listener.local_addr().unwrap())).unwrap();
        }),
    )
    .unwrap();
    let [kept, left] = receive.recv().unwrap();
    let new = old.replace_blocking(
        declared(),
        body(|kit| {
            // The name alone is not enough, nor is the address.
            assert!(kit.listeners.take::<OwnedFd>("left", "tcp://127.0.0.2:0").unwrap().is_none());
            assert!(kit.listeners.take::<OwnedFd>("renamed", "tcp://127.0.0.1:0").unwrap().is_none());
            drop(kit.listeners.take::<OwnedFd>("kept", "tcp://127.0.0.1:0").unwrap().unwrap());
        }),
    );
    let new = new.unwrap();
    old.wait();
    TcpStream::connect(kept).unwrap();
    wait_until_refused(left);
    new.stop();
    wait_until_refused(kept);
}

/// A service that binds what it serves at run time is ready when that is served.
#[test]
fn a_managed_listener_that_is_bound_at_run_time_makes_the_service_ready() {
    let (send, receive) = mpsc::channel();
    let generation = move || {
        let send = send.clone();
        move |start: &mut tableflip::Start| {
            let listeners: Listeners = start.handle()?;
            let generation = start.handle::<tableflip::Upgrader>()?.generation();
            Ok(move || {
                // What a configuration file would say.
                let listener: tableflip::blocking::TcpListener =
                    listeners.bind("configured", "tcp://localhost:0").unwrap();
                let socket: tableflip::blocking::UdpSocket =
                    listeners.bind("datagrams", "udp://127.0.0.1:0").unwrap();
                send.send((listener.local_addr().unwrap(), socket.local_addr().unwrap())).unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 16];
                    while let Some((_, sender)) = socket.recv_from(&mut buffer).unwrap() {
                        socket.send_to(generation.to_string().as_bytes(), &sender).unwrap();
                    }
                });
                for stream in listener.incoming() {
                    write!(stream.unwrap(), "{generation}").unwrap();
                }
            })
        }
    };
    let old: Running<()> = testing::start_blocking(declared(), generation()).unwrap();
    let (tcp, udp) = receive.recv().unwrap();
    assert_eq!((ask(tcp), ask_datagram(udp)), ("1".to_owned(), "1".to_owned()));
    let new = old.replace_blocking(declared(), generation()).unwrap();
    old.wait();
    assert_eq!(receive.recv().unwrap(), (tcp, udp));
    assert_eq!((ask(tcp), ask_datagram(udp)), ("2".to_owned(), "2".to_owned()));
    new.stop();
}

fn ask(address: SocketAddr) -> String {
    let mut answer = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut answer).unwrap();
    answer
}

fn ask_datagram(address: SocketAddr) -> String {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.send_to(b"who", address).unwrap();
    let mut buffer = [0; 16];
    let length = client.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// The body of the next release spells the addresses in another way.
#[test]
fn b4_an_address_in_another_spelling_is_inherited() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (send, receive) = mpsc::channel();
    let sent = send.clone();
    let path_of_old = path("unix");
    let old = testing::start_blocking(
        declared(),
        body(move |kit| {
            let tcp: std::net::TcpListener = kit.listeners.bind("tcp", "tcp://localhost:0").unwrap();
            let unix: UnixListener = kit.listeners.bind("unix", path_of_old).unwrap();
            sent.send((tcp.local_addr().unwrap(), identity(&tcp), identity(&unix))).unwrap();
        }),
    )
    .unwrap();
    let (at, tcp, unix) = receive.recv().unwrap();
    let path_of_new = path("link/unix");
    let new = old
        .replace_blocking(
            declared(),
            body(move |kit| {
                let udp = kit.listeners.take::<UdpSocket>("udp", format!("udp://{at}"));
                assert!(udp.unwrap().is_none(), "it is of another kind");
                let tcp: std::net::TcpListener = kit.listeners.bind("web", format!("tcp://{at}")).unwrap();
                let unix: UnixListener = kit.listeners.take("unix", path_of_new).unwrap().unwrap();
                send.send((tcp.local_addr().unwrap(), identity(&tcp), identity(&unix))).unwrap();
            }),
        )
        .unwrap();
    assert_eq!(receive.recv().unwrap(), (at, tcp, unix));
    old.wait();
    new.stop();
}
