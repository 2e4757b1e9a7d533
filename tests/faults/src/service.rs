//! The service of the sweeps: it answers the first byte of a connection with its generation and process ID, and closes the connection.
//! After a [`HOLD`] it waits for the client to close it first. After [`LINES`] the connection is one that moves, see `lines.rs`.

pub(crate) mod lines;

use std::fs;
use std::future::pending;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tableflip::net::{TcpListener, TcpStream};
use tableflip::{Flavor, Service, Shutdown, Upgrader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::select;
use tokio::time::{Instant, sleep_until};

/// The pid file, in the working directory.
pub(crate) const PIDFILE: &str = "pid";

/// Asks for an answer, and for one after which the connection stays open.
pub(crate) const ASK: u8 = b'?';
pub(crate) const HOLD: u8 = b'h';
/// Makes it a connection of lines.
pub(crate) const LINES: u8 = b'l';
/// As `HOLD`; the next byte asks for an upgrade, whose outcome is a line on stderr that begins with one of these.
pub(crate) const UPGRADE: u8 = b'u';
pub(crate) const TOLD_OF_SUCCESS: &str = "the upgrade succeeded: ";
pub(crate) const TOLD_OF_FAILURE: &str = "the upgrade did not succeed: ";

/// The file in the working directory that says how the process which starts now behaves: one of these, or as it ought to.
pub(crate) const MANNER: &str = "manner";
pub(crate) const LINGERS: &str = "lingers";
pub(crate) const RETURNS: &str = "returns";

/// How long `main` goes on after `run`, if it does.
const LINGER: Duration = Duration::from_millis(40);
/// After how much of the probation the body returns, if it does.
const RETURN_AFTER: Duration = Duration::from_millis(10);

pub(crate) fn serve() -> ExitCode {
    let manner = fs::read_to_string(MANNER).unwrap_or_default();
    let returns = manner == RETURNS;
    let code = Service::new()
        .flavor(Flavor::CurrentThread)
        .pidfile(PIDFILE)
        .probation("50ms")
        .listen("who", "tcp://127.0.0.1:0")
        .run(move |start| {
            let who: TcpListener = start.listener("who")?;
            let mut resumed = who.resumed([lines::KIND]);
            let upgrader: Upgrader = start.handle()?;
            // A clone: the body does not return at a drain.
            let shutdown = start.handle::<Shutdown>()?.clone();
            let address = who.local_addr().map_err(cannot_say)?;
            writeln!(io::stdout(), "{address}").map_err(cannot_say)?;
            Ok(async move {
                let me = format!("{} {}\n", upgrader.generation(), std::process::id());
                let mut returns_at = None;
                let mut connections = Vec::new();
                loop {
                    let accepted = select! {
                        biased;
                        () = until(&upgrader, returns_at) => break,
                        accepted = who.accept() => accepted,
                        offer = resumed.next() => {
                            tokio::spawn(lines::resume(offer, shutdown.clone()));
                            continue;
                        }
                    };
                    let Ok((connection, _)) = accepted else { continue };
                    if returns && returns_at.is_none() && upgrader.has_predecessor() {
                        returns_at = Some(Instant::now() + RETURN_AFTER);
                    }
                    let connection = answer(connection, me.clone(), upgrader.clone(), shutdown.clone());
                    let connection = tokio::spawn(connection);
                    connections.extend(returns.then_some(connection));
                }
                // It loses nothing that it has accepted.
                drop(who);
                for connection in connections {
                    match connection.await {
                        // Of a connection that has failed the client takes down what came of it.
                        Ok(_) | Err(_) => {}
                    }
                }
            })
        });
    if [LINGERS, RETURNS].contains(&manner.as_str()) {
        thread::sleep(LINGER);
    }
    code
}

/// Waits until this time, if there is one. A predecessor that is gone by then could not serve in the place of this process.
async fn until(upgrader: &Upgrader, time: Option<Instant>) {
    match time {
        None => pending().await,
        Some(time) => select! {
            biased;
            () = upgrader.predecessor_gone() => pending().await,
            () = sleep_until(time) => {}
        },
    }
}

async fn answer(
    mut connection: TcpStream,
    me: String,
    upgrader: Upgrader,
    shutdown: Shutdown,
) -> io::Result<()> {
    let first = connection.read_u8().await?;
    if first == LINES {
        return lines::serve(connection, lines::State::default(), shutdown).await;
    }
    connection.write_all(me.as_bytes()).await?;
    if [HOLD, UPGRADE].contains(&first) {
        connection.read_u8().await?;
    }
    if first == UPGRADE {
        let told = match upgrader.upgrade().await {
            Ok(upgraded) => format!("{TOLD_OF_SUCCESS}process {} serves\n", upgraded.pid),
            Err(error) => format!("{TOLD_OF_FAILURE}{error}\n"),
        };
        io::stderr().write_all(told.as_bytes())?;
    }
    Ok(())
}

fn cannot_say(error: io::Error) -> String {
    format!("cannot say where it listens: {error}")
}
