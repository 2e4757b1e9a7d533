//! A service where a process cannot be upgraded: it runs and stops gracefully all the same.
//!
//! On Linux: `RUSTFLAGS='--cfg tableflip_portable' cargo test -p tableflip --features http --lib --tests`.
//! A service is this very program once more, with the name of a service in its environment.
#![cfg(all(not(upgrades), unix, feature = "tokio"))]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tableflip::{Listeners, Shutdown, StartError, UpgradeError, Upgrader, blocking, net};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

/// What a service waits for is there at once, or never.
const DEADLINE: Duration = Duration::from_secs(20);
const SERVICE: &str = "PORTABLE_SERVICE";
/// What a body returns that was told to stop.
const STOPPED: u8 = 7;

// The services.

#[tableflip::main(listen = [echo = "tcp://127.0.0.1:0"], flavor = "current_thread")]
async fn asynchronous(echo: net::TcpListener, shutdown: Shutdown, upgrader: Upgrader) -> ExitCode {
    println!("serves {}", echo.local_addr().expect("it is bound"));
    assert_eq!(upgrader.generation(), 1);
    assert!(!upgrader.has_predecessor());
    upgrader.predecessor_gone().await;
    let accepting = tokio::spawn(async move {
        while let Ok((mut stream, _peer)) = echo.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..length]).await.expect("the test reads it");
                }
            });
        }
    });
    shutdown.await;
    accepting.abort();
    ExitCode::from(STOPPED)
}

#[tableflip::main(listen = [echo = "tcp://127.0.0.1:0"])]
fn threaded(echo: blocking::TcpListener) -> ExitCode {
    println!("serves {}", echo.local_addr().expect("it is bound"));
    for stream in echo.incoming() {
        let stream = stream.expect("it is accepted");
        thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
    }
    ExitCode::from(STOPPED)
}

#[tableflip::main(listen = [echo = "tcp://127.0.0.1:0"])]
fn at_run_time(listeners: Listeners) -> Result<ExitCode, StartError> {
    let echo: blocking::TcpListener = listeners.declared("echo")?;
    println!("serves {}", echo.local_addr().expect("it is bound"));
    for stream in echo.incoming() {
        let stream = stream.expect("it is accepted");
        thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
    }
    Ok(ExitCode::from(STOPPED))
}

#[tableflip::main(listen = [echo = "tcp://127.0.0.1:0"])]
async fn forgetful(listeners: Listeners) -> Result {
    let other: net::TcpListener = listeners.bind("other", "tcp://127.0.0.1:0")?;
    other.accept().await?;
    Ok(())
}

#[tableflip::main(listen = [echo = "tcp://127.0.0.1:0"])]
async fn unready(echo: net::TcpListener) -> Result {
    drop(echo);
    Err("no configuration".into())
}

/// Its preparation never ends.
fn preparing() -> ExitCode {
    let address = format!("unix://{}", std::env::var("PORTABLE_PATH").expect("the test says where"));
    tableflip::Service::new().listen("local", address).run_blocking(|start| {
        let local: blocking::UnixListener = start.listener("local")?;
        println!("prepares");
        while start.handle::<Upgrader>()?.generation() == 1 {
            thread::park();
        }
        Ok(move || drop(local))
    })
}

/// Not a test, but the process of a service where the environment says so.
#[test]
fn service() {
    let Ok(name) = std::env::var(SERVICE) else { return };
    let code = match name.as_str() {
        "asynchronous" => asynchronous(),
        "threaded" => threaded(),
        "at_run_time" => at_run_time(),
        "forgetful" => forgetful(),
        "unready" => unready(),
        "preparing" => preparing(),
        _ => unreachable!("`{name}` is none of the services"),
    };
    let number = (0..=u8::MAX).find(|number| ExitCode::from(*number) == code);
    // A test cannot return it.
    #[allow(clippy::exit)]
    std::process::exit(number.map_or(-1, i32::from));
}

/// A service, killed when it is dropped.
struct Service {
    child: Child,
    address: SocketAddr,
    stderr: mpsc::Receiver<String>,
}

fn command(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(["--exact", "service", "--nocapture"]).env(SERVICE, name);
    command
}

impl Service {
    fn start(name: &str) -> Result<Self> {
        Self::start_with(command(name))
    }

    fn start_with(mut command: Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = lines(child.stdout.take().expect("it is piped"));
        let stderr = lines(child.stderr.take().expect("it is piped"));
        let address = loop {
            let line = stdout.recv_timeout(DEADLINE)?;
            if let Some((_, address)) = line.split_once("serves ") {
                break address.parse()?;
            }
        };
        // The body has been entered, but not the first accept: that is when it is ready.
        let service = Self { child, address, stderr };
        drop(service.connect()?);
        Ok(service)
    }

    /// A connection that has been served once.
    fn connect(&self) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        assert_eq!(ask(&mut stream)?, "ping");
        Ok(stream)
    }

    fn signal(&self, signal: Signal) -> Result {
        Ok(kill(Pid::from_raw(self.child.id().try_into()?), signal)?)
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        wait_until(|| !matches!(self.child.try_wait(), Ok(None)))?;
        Ok(self.child.wait()?)
    }

    /// Waits until it accepts no more.
    fn wait_until_closed(&self) -> Result {
        wait_until(|| TcpStream::connect(self.address).is_err())
    }

    /// Waits until it says something like this.
    fn wait_for(&self, text: &str) -> Result<String> {
        loop {
            let line = self.stderr.recv_timeout(DEADLINE)?;
            if line.contains(text) {
                return Ok(line);
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        match self.child.kill().and_then(|()| self.child.wait()) {
            Ok(_) | Err(_) => {}
        }
    }
}

/// What nobody tells a test of is asked for again and again.
fn wait_until(mut happened: impl FnMut() -> bool) -> Result {
    let deadline = Instant::now() + DEADLINE;
    while !happened() {
        if Instant::now() > deadline {
            return Err("it has not happened".into());
        }
        thread::yield_now();
    }
    Ok(())
}

fn lines(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                // Read to the end all the same: a full pipe would block the service.
            }
        }
    });
    receiver
}

fn ask(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8(answer.to_vec())?)
}

// The tests.

fn drains_at(name: &str, signal: Signal) -> Result {
    let mut service = Service::start(name)?;
    let mut open = service.connect()?;
    service.signal(signal)?;
    service.wait_until_closed()?;
    assert_eq!(ask(&mut open)?, "ping", "what is open is served on");
    assert_eq!(service.child.try_wait()?, None, "and waited for");
    drop(open);
    assert_eq!(service.wait()?.code(), Some(STOPPED.into()), "the status is that of the body");
    Ok(())
}

#[test]
fn ctrl_c_drains() -> Result {
    drains_at("asynchronous", Signal::SIGINT)
}

#[test]
fn sigterm_drains() -> Result {
    drains_at("asynchronous", Signal::SIGTERM)
}

#[test]
fn ctrl_c_drains_a_service_of_threads() -> Result {
    drains_at("threaded", Signal::SIGINT)
}

#[test]
fn a_declared_listener_that_is_taken_at_run_time_drains() -> Result {
    drains_at("at_run_time", Signal::SIGTERM)
}

#[test]
fn a_second_ctrl_c_ends_it_at_once() -> Result {
    let mut service = Service::start("asynchronous")?;
    let _open = service.connect()?;
    service.signal(Signal::SIGINT)?;
    service.wait_until_closed()?;
    service.signal(Signal::SIGINT)?;
    assert_eq!(service.wait()?.signal(), Some(Signal::SIGINT as i32));
    Ok(())
}

/// B9: the paths that it has bound are removed.
#[test]
fn b9_a_signal_ends_a_start_whose_preparation_blocks() -> Result {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("local");
        let mut child = command("preparing").env("PORTABLE_PATH", &path).stdout(Stdio::piped()).spawn()?;
        let stdout = lines(child.stdout.take().expect("it is piped"));
        while !stdout.recv_timeout(DEADLINE)?.contains("prepares") {}
        assert!(path.exists());
        kill(Pid::from_raw(child.id().try_into()?), signal)?;
        wait_until(|| !matches!(child.try_wait(), Ok(None)))?;
        assert_eq!(child.wait()?.code(), Some(0), "{signal}");
        assert!(!path.exists(), "{signal}");
    }
    Ok(())
}

#[test]
fn the_deadline_of_a_drain_aborts_what_is_left() -> Result {
    let mut command = command("asynchronous");
    command.env("TABLEFLIP_DRAIN_TIMEOUT", "50ms");
    let mut service = Service::start_with(command)?;
    let _open = service.connect()?;
    service.signal(Signal::SIGINT)?;
    service.wait_for("not drained within 50ms: 1 connections")?;
    service.wait()?;
    Ok(())
}

#[test]
fn the_signal_that_would_upgrade_is_refused_and_does_no_harm() -> Result {
    let service = Service::start("asynchronous")?;
    service.signal(Signal::SIGHUP)?;
    let line = service.wait_for("upgrade refused")?;
    assert!(line.contains("not supported on this platform"), "{line}");
    service.connect()?;
    Ok(())
}

#[test]
fn a_pid_file_is_there_as_long_as_the_service() -> Result {
    let dir = tempfile::tempdir()?;
    let pidfile = dir.path().join("echo.pid");
    let mut command = command("asynchronous");
    command.env("TABLEFLIP_PIDFILE", &pidfile);
    let mut service = Service::start_with(command)?;
    // It is written just after the first connection was let in.
    wait_until(|| pidfile.exists())?;
    assert_eq!(std::fs::read_to_string(&pidfile)?, format!("{}\n", service.child.id()));
    service.signal(Signal::SIGTERM)?;
    service.wait()?;
    assert!(!pidfile.exists());
    Ok(())
}

fn cannot_start(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    Ok(String::from_utf8(output.stderr)?)
}

#[test]
fn a_start_that_fails_says_why() -> Result {
    let stderr = cannot_start(command("asynchronous").env("TABLEFLIP_LISTEN_ECHO", "tcp://nowhere"))?;
    assert!(stderr.contains("environment variable `TABLEFLIP_LISTEN_ECHO`"), "{stderr}");
    let stderr = cannot_start(command("asynchronous").env("TABLEFLIP_HANDOVER", "3"))?;
    assert!(stderr.contains("upgrades are not supported"), "{stderr}");
    let address = "tcp://127.0.0.1:0?freebind=true";
    let stderr = cannot_start(command("asynchronous").env("TABLEFLIP_LISTEN_ECHO", address))?;
    assert!(stderr.contains("`freebind` is not available on this platform"), "{stderr}");
    let stderr = cannot_start(&mut command("unready"))?;
    assert!(stderr.contains("the body returned before it was ready"), "{stderr}");
    let stderr = cannot_start(&mut command("forgetful"))?;
    let forgotten = "cannot start: listener `echo`: it is declared, and the body does not take it";
    assert!(stderr.contains(forgotten), "{stderr}");
    Ok(())
}

// The rest of the surface, on threads of this process.

/// Go: `ErrNotSupported`, which `New` returns there; here the service runs, and it is the upgrade that is refused.
#[test]
fn an_upgrade_is_not_supported() -> Result {
    let service =
        tableflip::Service::new().listen("a", "tcp://127.0.0.1:0").flavor(tableflip::Flavor::CurrentThread);
    let running = tableflip::testing::start(service, |start| {
        let listener: net::TcpListener = start.listener("a")?;
        let upgrader: Upgrader = start.handle()?;
        Ok(async move {
            let (_stream, _peer) = listener.accept().await.expect("the test connects");
            upgrader.upgrade().await
        })
    })?;
    let _stream = TcpStream::connect(running.address("a").expect("it has one"))?;
    assert_eq!(running.wait(), Some(Err(UpgradeError::Unsupported)));
    Ok(())
}

#[test]
fn datagrams_are_received_and_answered() -> Result {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0")?;
    udp.set_read_timeout(Some(DEADLINE))?;
    let ask = |address: Option<SocketAddr>| -> Result<String> {
        udp.send_to(b"ping", address.expect("it has one"))?;
        let mut buffer = [0; 16];
        let (length, _) = udp.recv_from(&mut buffer)?;
        Ok(String::from_utf8(buffer[..length].to_vec())?)
    };
    let declared = || tableflip::Service::new().listen("a", "udp://127.0.0.1:0");

    let running = tableflip::testing::start(declared(), |start| {
        let socket: net::UdpSocket = start.listener("a")?;
        Ok(async move {
            let mut buffer = [0; 16];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                socket.send_to(&buffer[..length], peer).await.expect("it is sent");
            }
        })
    })?;
    assert_eq!(ask(running.address("a"))?, "ping");
    assert_eq!(running.stop(), None);

    let running = tableflip::testing::start_blocking(declared(), |start| {
        let socket: blocking::UdpSocket = start.listener("a")?;
        Ok(move || {
            let mut buffer = [0; 16];
            while let Ok(Some((length, peer))) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..length], &peer).expect("it is sent");
            }
        })
    })?;
    assert_eq!(ask(running.address("a"))?, "ping");
    running.stop();
    Ok(())
}

#[test]
fn unix_paths_are_served_and_removed() -> Result {
    use std::os::unix::net::{UnixDatagram, UnixStream};
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    let address = |scheme: &str, path: &Path| format!("{scheme}://{}?mode=600", path.display());
    // One that a dead process left.
    drop(std::os::unix::net::UnixListener::bind(path("stream"))?);
    let service = tableflip::Service::new()
        .listen("stream", address("unix", &path("stream")))
        .listen("datagram", address("unix-dgram", &path("datagram")));
    let running = tableflip::testing::start(service, |start| {
        let listener: net::UnixListener = start.listener("stream")?;
        let socket: net::UnixDatagram = start.listener("datagram")?;
        Ok(async move {
            let streams = async {
                while let Ok((mut stream, _peer)) = listener.accept().await {
                    stream.write_all(b"stream").await.expect("the test reads it");
                }
            };
            let datagrams = async {
                let mut buffer = [0; 16];
                while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                    socket.send_to(&buffer[..length], peer).await.expect("the test reads it");
                }
            };
            tokio::join!(streams, datagrams);
        })
    })?;
    let mut answer = String::new();
    UnixStream::connect(path("stream"))?.read_to_string(&mut answer)?;
    assert_eq!(answer, "stream");
    let client = UnixDatagram::bind(path("client"))?;
    client.set_read_timeout(Some(DEADLINE))?;
    client.send_to(b"datagram", path("datagram"))?;
    let mut buffer = [0; 16];
    let length = client.recv(&mut buffer)?;
    assert_eq!(&buffer[..length], b"datagram");
    running.stop();
    assert!(!path("stream").exists() && !path("datagram").exists());
    Ok(())
}

#[cfg(feature = "http")]
#[test]
fn http_is_served_and_drained() -> Result {
    use std::convert::Infallible;

    use hyper::{Request, Response, body::Incoming};

    #[derive(Clone)]
    struct Hello;

    impl tower_service::Service<Request<Incoming>> for Hello {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = std::future::Ready<std::result::Result<Response<String>, Infallible>>;

        fn poll_ready(
            &mut self,
            _cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::result::Result<(), Infallible>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _request: Request<Incoming>) -> Self::Future {
            std::future::ready(Ok(Response::new("hello".to_owned())))
        }
    }

    let service = tableflip::Service::new().listen("web", "tcp://127.0.0.1:0");
    let running = tableflip::testing::start(service, |start| {
        let listener: net::TcpListener = start.listener("web")?;
        Ok(async move { tableflip::http::serve(listener, Hello).await.map_err(|error| error.to_string()) })
    })?;
    let mut stream = TcpStream::connect(running.address("web").expect("it has one"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    let get = |stream: &mut TcpStream| -> Result<String> {
        stream.write_all(request.as_bytes())?;
        let mut answer = [0; 512];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8(answer[..length].to_vec())?)
    };
    assert!(get(&mut stream)?.ends_with("hello"));
    running.upgrader().stop();
    let address = running.address("web").expect("it has one");
    wait_until(|| TcpStream::connect(address).is_err())?;
    let last = get(&mut stream)?;
    assert!(last.contains("connection: close") && last.ends_with("hello"), "{last}");
    assert_eq!(running.wait(), Some(Ok(())));
    Ok(())
}
