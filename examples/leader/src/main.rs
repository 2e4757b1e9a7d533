//! A task that must never run twice, in a service that runs in two processes during an upgrade.
//!
//! Every process serves; the process that has the lock leads as well. A process that is replaced releases the lock before it
//! finishes its connections. If it is killed, the kernel releases the lock. Run it with `cargo run -p leader`, ask it with
//! `nc 127.0.0.1 7003`, and replace it with `kill -HUP $(cat leader.pid)`. `leader.journal` names the leaders.

use std::fs::File;
use std::io::{self, Write};
use std::process;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tableflip::{Shutdown, net::TcpListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{interval, sleep};

/// flock(2): the kernel gives the lock to one process at a time. The task polls, because a thread that blocks in flock(2)
/// could not be stopped.
async fn lock() -> io::Result<Flock<File>> {
    let mut file = File::options().create(true).append(true).open("leader.journal")?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) => file = unlocked,
            Err((_, error)) => return Err(error.into()),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn lead(mut shutdown: Shutdown) -> io::Result<()> {
    // The current step is finished first, whatever happens to the connections.
    let _guard = shutdown.guard();
    let mut journal = tokio::select! { lock = lock() => lock?, () = &mut shutdown => return Ok(()) };
    writeln!(journal, "{} leads", process::id())?;
    let mut ticks = interval(Duration::from_millis(10));
    while !shutdown.is_raised() {
        ticks.tick().await;
        writeln!(journal, "{} works", process::id())?;
    }
    writeln!(journal, "{} retires", process::id())
}

#[tableflip::main(pidfile = "leader.pid", listen = [status = "tcp://127.0.0.1:7003"])]
async fn main(status: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    let mut leader = tokio::spawn(lead(shutdown));
    loop {
        let (mut stream, _peer) = tokio::select! {
            accepted = status.accept() => accepted?,
            // The shutdown, or an error: a process that cannot lead is of no use.
            led = &mut leader => return led?,
        };
        tokio::spawn(async move {
            let mut question = [0; 64];
            while stream.read(&mut question).await? > 0 {
                stream.write_all(b"a process of this service\n").await?;
            }
            io::Result::Ok(())
        });
    }
}
