//! `AddConn`, `Conn`, `AddFile`, `File` and `Files`, as `Upgrader::pass_on` and `Inherited`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write, pipe};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{FdFlags, fcntl_getfd};
use tableflip::{Inherited, Upgrader, blocking, net, testing};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::{body, declared};

/// Go: `TestFdsFile`, `TestChildPassedFds`.
#[test]
fn a_pipe_is_passed_on() {
    let (reader, writer) = pipe().unwrap();
    let old =
        testing::start_blocking(declared(), body(move |kit| kit.upgrader.pass_on("test", writer).unwrap()))
            .unwrap();
    let new = old.replace_blocking(
        declared(),
        body(|kit| {
            assert!(kit.inherited.take("other").is_none());
            let mut file = File::from(kit.inherited.take("test").expect("it was passed on"));
            assert!(kit.inherited.take("test").is_none(), "it is taken once");
            file.write_all(b"written by the successor").unwrap();
        }),
    );
    let new = new.unwrap();
    // The old one keeps its own for as long as it may have to start another successor.
    old.wait();
    assert_eq!(io::read_to_string(reader).unwrap(), "written by the successor");
    new.stop();
}

/// Go: `TestFdsFiles`.
#[test]
fn all_that_was_passed_on_can_be_listed() {
    let (first, one) = pipe().unwrap();
    let (second, two) = pipe().unwrap();
    let old = testing::start_blocking(
        declared(),
        body(|kit| {
            assert_eq!(kit.inherited.iter().count(), 0, "a first process inherits nothing");
            kit.upgrader.pass_on("test2", two).unwrap();
            kit.upgrader.pass_on("test1", one).unwrap();
        }),
    )
    .unwrap();
    let new = old.replace_blocking(
        declared(),
        body(|kit| {
            let names =
                |kit: &crate::Kit| kit.inherited.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
            assert_eq!(names(kit), ["test1", "test2"]);
            for (name, fd) in kit.inherited.iter() {
                File::from(fd.try_clone_to_owned().unwrap()).write_all(name.as_bytes()).unwrap();
            }
            drop(kit.inherited.take("test1").unwrap());
            assert_eq!(names(kit), ["test2"]);
        }),
    );
    let new = new.unwrap();
    old.wait();
    new.stop();
    assert_eq!(io::read_to_string(first).unwrap(), "test1");
    assert_eq!(io::read_to_string(second).unwrap(), "test2");
}

/// Go: `TestFdsConn`.
#[test]
fn a_socket_is_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    let old =
        testing::start_blocking(declared(), body(move |kit| kit.upgrader.pass_on("conn", socket).unwrap()))
            .unwrap();
    // It waits in the queue, which the successor has too.
    UnixDatagram::unbound().unwrap().send_to(b"hello", &path).unwrap();
    let new = old.replace_blocking(
        declared(),
        body(move |kit| {
            let socket = UnixDatagram::from(kit.inherited.take("conn").unwrap());
            let mut buffer = [0; 16];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"hello");
        }),
    );
    let new = new.unwrap();
    // What is passed on is no listener: its path is whose it was.
    old.wait();
    new.stop();
    assert!(path.exists());
}

/// D8. A connection that was accepted by one process goes on in the next. Go: `AddConn`, `Conn`.
#[test]
fn a_connection_goes_on_in_the_successor() {
    let service = || declared().listen("line", "tcp://localhost:0");
    let old = testing::start_blocking(service(), |start| {
        let listener: blocking::TcpListener = start.listener("line")?;
        let upgrader: Upgrader = start.handle()?;
        Ok(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                assert!(reader.buffer().is_empty(), "what was read ahead would be lost");
                // Without its guard, the drain of this process does not wait for it.
                let (stream, _guard) = reader.into_inner().into_inner();
                upgrader.pass_on("connection", stream.try_clone().unwrap()).unwrap();
                write!(&stream, "1 {line}").unwrap();
            }
        })
    })
    .unwrap();
    let mut client = TcpStream::connect(old.address("line").unwrap()).unwrap();
    let mut answers = BufReader::new(client.try_clone().unwrap());
    let mut answer = || {
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        line
    };
    client.write_all(b"one\n").unwrap();
    assert_eq!(answer(), "1 one\n");

    let new = old.replace_blocking(service(), |start| {
        let listener: blocking::TcpListener = start.listener("line")?;
        let mut inherited: Inherited = start.handle()?;
        Ok(move || {
            let mut stream = TcpStream::from(inherited.take("connection").unwrap());
            std::thread::spawn(move || {
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                write!(stream, "2 {line}").unwrap();
            });
            drop(listener.incoming().next());
        })
    });
    let new = new.unwrap();
    old.wait();
    client.write_all(b"two\n").unwrap();
    assert_eq!(answer(), "2 two\n");
    assert_eq!(answer(), "", "both processes have closed it");
    new.stop();
}

/// The twin for `async` bodies. The one that gets it goes on in a task.
#[test]
fn an_async_body_passes_a_connection_on() {
    let service = || declared().listen("line", "tcp://localhost:0");
    let old = testing::start(service(), |start| {
        let listener: net::TcpListener = start.listener("line")?;
        let (upgrader, mut inherited) = (start.handle::<Upgrader>()?, start.handle::<Inherited>()?);
        Ok(async move {
            assert!(inherited.take("connection").is_none(), "a first process inherits nothing");
            let (stream, _) = listener.accept().await.unwrap();
            let mut reader = tokio::io::BufReader::new(stream);
            let mut line = String::new();
            reader.read_line(&mut line).await.unwrap();
            assert!(reader.buffer().is_empty(), "what was read ahead would be lost");
            // Without its guard, the drain of this process does not wait for it.
            let (mut stream, guard) = reader.into_inner().into_inner();
            drop(guard);
            upgrader.pass_on("connection", stream.as_fd().try_clone_to_owned().unwrap()).unwrap();
            stream.write_all(format!("1 {line}").as_bytes()).await.unwrap();
            drop(stream);
            // The next one is the successor's.
            match listener.accept().await {
                Ok(_) | Err(_) => {}
            }
        })
    })
    .unwrap();
    let mut client = TcpStream::connect(old.address("line").unwrap()).unwrap();
    let mut answers = BufReader::new(client.try_clone().unwrap());
    client.write_all(b"one\n").unwrap();
    let mut answer = String::new();
    answers.read_line(&mut answer).unwrap();
    assert_eq!(answer, "1 one\n");

    let new = old.replace(service(), |start| {
        let listener: net::TcpListener = start.listener("line")?;
        let mut inherited: Inherited = start.handle()?;
        Ok(async move {
            let names: Vec<_> = inherited.iter().map(|(name, _)| name.to_owned()).collect();
            assert_eq!(names, ["connection"]);
            let stream = TcpStream::from(inherited.take("connection").unwrap());
            // It is as the old one had it: tokio's does not block.
            let mut stream = tokio::io::BufReader::new(tokio::net::TcpStream::from_std(stream).unwrap());
            tokio::spawn(async move {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                stream.write_all(format!("2 {line}").as_bytes()).await.unwrap();
            });
            match listener.accept().await {
                Ok(_) | Err(_) => {}
            }
        })
    });
    let new = new.unwrap();
    old.wait();
    client.write_all(b"two\n").unwrap();
    assert_eq!(io::read_to_string(answers).unwrap(), "2 two\n", "and both processes have closed it");
    new.stop();
}

#[test]
fn a_name_is_passed_on_once_and_not_for_ever() {
    let (_first, one) = pipe().unwrap();
    let (second, two) = pipe().unwrap();
    let old = testing::start_blocking(
        declared(),
        body(|kit| {
            kit.upgrader.pass_on("name", one).unwrap();
            kit.upgrader.pass_on("name", two).unwrap();
        }),
    )
    .unwrap();
    let second = BufReader::new(second);
    let new = old.replace_blocking(
        declared(),
        body(|kit| {
            let fd = kit.inherited.take("name").unwrap();
            File::from(fd).write_all(b"the second\n").unwrap();
        }),
    );
    let new = new.unwrap();
    old.wait();
    assert_eq!(io::read_to_string(second).unwrap(), "the second\n");
    // It was given to one successor; the next gets what that one passes on.
    new.upgrader().predecessor_gone_blocking();
    let newer = new.replace_blocking(
        declared(),
        body(|kit| {
            assert_eq!(kit.inherited.iter().count(), 0);
        }),
    );
    let newer = newer.unwrap();
    new.wait();
    newer.stop();
}

#[test]
fn b12_what_is_withdrawn_is_passed_on_no_more() {
    let (first, one) = pipe().unwrap();
    let (_second, two) = pipe().unwrap();
    let old = testing::start_blocking(
        declared(),
        body(|kit| {
            assert!(!kit.upgrader.withdraw("one"));
            kit.upgrader.pass_on("one", one).unwrap();
            kit.upgrader.pass_on("two", two).unwrap();
        }),
    )
    .unwrap();
    let upgrader = old.upgrader();
    assert!(upgrader.withdraw("one"));
    assert!(!upgrader.withdraw("one"));
    // This process has closed its own.
    assert_eq!(io::read_to_string(first).unwrap(), "");
    let new = old.replace_blocking(
        declared(),
        body(|kit| {
            let names: Vec<_> = kit.inherited.iter().map(|(name, _)| name.to_owned()).collect();
            assert_eq!(names, ["two"]);
        }),
    );
    let new = new.unwrap();
    old.wait();
    new.stop();
}

/// A conversion is code of the service: it may pass another descriptor on, or take as long as an upgrade.
#[test]
fn b12_the_conversions_may_use_the_upgrader() {
    struct Late(Upgrader, File);
    impl From<Late> for OwnedFd {
        fn from(Late(upgrader, file): Late) -> Self {
            upgrader.pass_on("inner", file.try_clone().unwrap()).unwrap();
            assert!(upgrader.withdraw("inner"));
            file.into()
        }
    }
    impl From<&Late> for String {
        fn from(Late(upgrader, _): &Late) -> Self {
            assert!(!upgrader.withdraw("outer"));
            "outer".to_owned()
        }
    }
    let (done, is_done) = std::sync::mpsc::channel();
    // A lock that is taken twice keeps the service from serving.
    std::thread::spawn(move || {
        let old = testing::start_blocking(
            declared(),
            body(|kit| {
                let late = || Late(kit.upgrader.clone(), File::open("/dev/null").unwrap());
                kit.upgrader.pass_on(&late(), late()).unwrap();
            }),
        );
        old.unwrap().stop();
        done.send(()).unwrap();
    });
    is_done.recv_timeout(processes::DEADLINE).expect("no lock is taken twice");
}

/// Go: `closeInherited`, which closes at `Ready` whatever was not asked for.
#[test]
fn what_a_successor_does_not_take_is_closed() {
    let closed = |takes_inherited: bool| -> PipeReader {
        let (reader, writer) = pipe().unwrap();
        let old = testing::start_blocking(
            declared(),
            body(move |kit| kit.upgrader.pass_on("unwanted", writer).unwrap()),
        )
        .unwrap();
        let new = old.replace_blocking(declared(), move |start| {
            let inherited = takes_inherited.then(|| start.handle::<Inherited>()).transpose()?;
            drop(inherited);
            let (ready, shutdown) =
                (start.handle::<tableflip::Ready>()?, start.handle::<tableflip::Shutdown>()?);
            Ok(move || {
                ready.notify();
                shutdown.wait();
            })
        });
        let new = new.unwrap();
        old.wait();
        let mut rest = Vec::new();
        (&reader).read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        new.stop();
        reader
    };
    drop(closed(true));
    drop(closed(false));
}

/// A successor that fails has had them, and so does the next one.
#[test]
fn the_next_successor_gets_what_a_failed_one_got() {
    let (reader, writer) = pipe().unwrap();
    let old =
        testing::start_blocking(declared(), body(move |kit| kit.upgrader.pass_on("log", writer).unwrap()))
            .unwrap();
    let write = |kit: &mut crate::Kit, text: &str| {
        File::from(kit.inherited.take("log").unwrap()).write_all(text.as_bytes()).unwrap();
    };
    let failed = old.replace_blocking(
        declared(),
        body(move |kit| {
            write(kit, "first\n");
            panic!("after all");
        }),
    );
    let failed: Result<testing::Running<()>, _> = failed;
    failed.unwrap_err();
    let new = old.replace_blocking(declared(), body(move |kit| write(kit, "second\n"))).unwrap();
    old.wait();
    assert_eq!(io::read_to_string(reader).unwrap(), "first\nsecond\n");
    new.stop();
}

/// Go: `TestFilesAreNonblocking`. O_NONBLOCK belongs to the description that both have; what a successor gets is as it
/// was, and close-on-exec.
#[test]
fn what_is_passed_on_stays_blocking_or_not() {
    let (blocking, _one) = UnixStream::pair().unwrap();
    let (nonblocking, _two) = UnixStream::pair().unwrap();
    nonblocking.set_nonblocking(true).unwrap();
    let (mine, theirs) = (blocking.try_clone().unwrap(), nonblocking.try_clone().unwrap());
    let old = testing::start_blocking(
        declared(),
        body(move |kit| {
            kit.upgrader.pass_on("blocking", blocking).unwrap();
            kit.upgrader.pass_on("nonblocking", nonblocking).unwrap();
        }),
    )
    .unwrap();
    fn is_nonblocking(fd: impl AsFd) -> bool {
        fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
    }
    let new = old.replace_blocking(
        declared(),
        body(|kit| {
            for (name, expected) in [("blocking", false), ("nonblocking", true)] {
                let fd: OwnedFd = kit.inherited.take(name).unwrap();
                assert_eq!(is_nonblocking(&fd), expected, "{name}");
                assert!(fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC), "{name}");
            }
        }),
    );
    let new = new.unwrap();
    assert!(!is_nonblocking(&mine) && is_nonblocking(&theirs));
    old.wait();
    new.stop();
}

/// Go: `BenchmarkUpgrade`, which passes on hundreds. More than go into one packet, or into the buffer of the channel.
#[test]
fn hundreds_of_files_are_passed_on() {
    const MANY: usize = 300;
    let old = testing::start_blocking(
        declared(),
        body(|kit| {
            for number in 0..MANY {
                kit.upgrader.pass_on(format!("file-{number:03}"), File::open("/dev/null").unwrap()).unwrap();
            }
        }),
    )
    .unwrap();
    let new = old.replace_blocking(
        declared(),
        body(|kit| {
            let names: Vec<_> = kit.inherited.iter().map(|(name, _)| name.to_owned()).collect();
            let expected: Vec<_> = (0..MANY).map(|number| format!("file-{number:03}")).collect();
            assert_eq!(names, expected);
        }),
    );
    let new = new.unwrap();
    old.wait();
    new.stop();
}
