//! The measured services. Each is this program under a hidden argument, so that both sides of a comparison are one
//! binary.

use std::future::Future;
use std::io::{self, BufRead};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::process::ExitCode;
use std::task::{Context, Waker};
use std::time::Duration;

use tableflip::net::TcpListener;
use tableflip::{Service, Shutdown, Upgrader};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::flavor::Flavor;
use crate::peers::{self, services};
use crate::probe::Answer;
use crate::stall::{How, Watch};
use crate::{Result, clock, hello, idle, trial};

pub(crate) const ANY_PORT: &str = "tcp://127.0.0.1:0";
/// How many connections may wait: what tableflip asks for by default.
pub(crate) const BACKLOG: u32 = 4096;
/// How much is echoed at once, at most.
const BUFFER: usize = 64 * 1024;

/// Runs a service; the first argument is its kind.
pub(crate) fn run(arguments: &[&str], entered: Duration) -> ExitCode {
    let result = match arguments {
        ["probe", listeners, flavor] => probe(listeners, flavor, entered),
        ["plain", flavor] => plain(flavor),
        ["managed", flavor] => managed(flavor),
        ["plain-hello", framework, directory] => hello::plain(framework, directory),
        ["idle", flavor] => idle::service(flavor),
        ["managed-hello", framework, directory] => hello::managed(framework, directory),
        [peers::TABLEFLIP, address] => services::tableflip(address),
        [peers::ECDYSIS, address] => services::ecdysis(address),
        ["trial", guard, stamps] => trial::service(guard, stamps),
        ["stall", mebibytes, how] => stalled(mebibytes, how),
        _ => Err(format!("no such service: {arguments:?}").into()),
    };
    exit_code(result)
}

pub(crate) fn exit_code(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("bench: service: {error}");
        ExitCode::FAILURE
    })
}

/// Says when `main` was entered.
pub(crate) fn stamp(entered: Duration) -> ExitCode {
    println!("{}", entered.as_nanos());
    ExitCode::SUCCESS
}

/// What `#[tokio::main]` makes of an empty body.
pub(crate) fn empty_body(flavor: &str) -> ExitCode {
    let runtime = flavor.parse::<Flavor>().map_err(Into::into).and_then(|flavor| Ok(flavor.runtime()?));
    let result: Result<()> = runtime.map(|runtime| runtime.block_on(async {}));
    exit_code(result.map(|()| ExitCode::SUCCESS))
}

/// A service that is upgraded as often as it is asked.
pub(crate) fn service(flavor: Flavor) -> Service {
    Service::new()
        .flavor(tableflip::Flavor::from(flavor))
        .probation(Duration::from_millis(1))
        .drain_timeout(Duration::from_secs(10))
}

/// A listener of tokio alone, with the options that tableflip sets by default.
pub(crate) fn listener() -> io::Result<tokio::net::TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    socket.listen(BACKLOG)
}

/// Says the address. A successor has the same.
pub(crate) fn announce(address: SocketAddr, upgrader: &Upgrader) {
    if !upgrader.has_predecessor() {
        println!("{address}");
    }
}

/// Answers every connection with an [`Answer`]. The client asks the last of its listeners.
fn probe(listeners: &str, flavor: &str, entered: Duration) -> Result<ExitCode> {
    let names: Vec<_> =
        (1..=listeners.parse::<usize>()?).map(|number| format!("listener-{number}")).collect();
    let service = service(flavor.parse()?);
    let service = names.iter().fold(service, |service, name| service.listen(name, ANY_PORT));
    Ok(service.run(|start| {
        let upgrader: Upgrader = start.handle()?;
        let mut listeners: Vec<TcpListener> =
            names.iter().map(|name| start.listener(name)).collect::<std::result::Result<_, _>>()?;
        Ok(async move {
            let body = clock::now();
            let Some(last) = listeners.pop() else { return Ok(()) };
            announce(last.local_addr()?, &upgrader);
            let answer = move || Answer {
                generation: upgrader.generation(),
                pid: std::process::id(),
                entered,
                body,
                accepted: clock::now(),
                is_alone: is_ready(upgrader.predecessor_gone()),
            };
            for listener in listeners {
                tokio::spawn(answer_all(listener, answer.clone()));
            }
            answer_all(last, answer).await
        })
    }))
}

/// Whether a future has nothing left to wait for.
fn is_ready(future: impl Future) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

async fn answer_all(listener: TcpListener, answer: impl Fn() -> Answer) -> io::Result<()> {
    loop {
        let (mut stream, _peer) = listener.accept().await?;
        // A client that is gone wants no answer.
        match stream.write_all(&answer().to_bytes()).await {
            Ok(()) | Err(_) => {}
        }
    }
}

/// Closes every connection at once.
async fn accept_all(listener: &TcpListener) -> io::Result<()> {
    loop {
        drop(listener.accept().await?);
    }
}

/// What two services differ in that do the same with a connection.
pub(crate) trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>>;
}

impl Accept for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

impl Accept for TcpListener {
    type Stream = tableflip::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

async fn echo(listener: impl Accept) -> io::Result<()> {
    loop {
        let mut stream = listener.accept().await?;
        tokio::spawn(async move {
            // A short connection does not pay for the buffer of a long one.
            let mut buffer = vec![0; 256];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
                if count == buffer.len() && count < BUFFER {
                    buffer.resize(BUFFER, 0);
                }
            }
        });
    }
}

/// Echo as `#[tokio::main]` runs it.
fn plain(flavor: &str) -> Result<ExitCode> {
    flavor.parse::<Flavor>()?.runtime()?.block_on(async {
        let listener = listener()?;
        println!("{}", listener.local_addr()?);
        echo(listener).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Echo as `#[tableflip::main]` runs it.
fn managed(flavor: &str) -> Result<ExitCode> {
    Ok(service(flavor.parse()?).listen("echo", ANY_PORT).run(|start| {
        let upgrader: Upgrader = start.handle()?;
        let listener: TcpListener = start.listener("echo")?;
        Ok(async move {
            announce(listener.local_addr()?, &upgrader);
            echo(listener).await
        })
    }))
}

/// A process with a heap, one thread of which is watched while another has it upgraded.
fn stalled(mebibytes: &str, how: &str) -> Result<ExitCode> {
    let mebibytes: usize = mebibytes.parse()?;
    let how: How = how.parse()?;
    Ok(service(Flavor::MultiThread).listen("unused", ANY_PORT).run(|start| {
        let upgrader: Upgrader = start.handle()?;
        let shutdown: Shutdown = start.handle()?;
        let listener: TcpListener = start.listener("unused")?;
        // A successor has a heap of its own to build; here it would only take memory and time.
        if !upgrader.has_predecessor() {
            // What is to be said is said before this process ends.
            let guard = shutdown.guard();
            let (upgrader, mut watch) = (upgrader.clone(), Watch::new(mebibytes));
            std::thread::spawn(move || {
                let _guard = guard;
                // One line is the word to begin; without one, there is nobody left to measure for.
                if matches!(io::stdin().lock().lines().next(), Some(Ok(_))) {
                    match watch.during(how, &upgrader) {
                        Ok((stall, quiet, Some(successor))) => println!("{stall}\n{quiet}\n{successor}"),
                        Ok((stall, quiet, None)) => println!("{stall}\n{quiet}"),
                        Err(error) => {
                            eprintln!("bench: service: {error}");
                            upgrader.stop();
                        }
                    }
                }
            });
        }
        Ok(async move {
            announce(listener.local_addr()?, &upgrader);
            // The client opens one to see that this process serves.
            accept_all(&listener).await
        })
    }))
}
