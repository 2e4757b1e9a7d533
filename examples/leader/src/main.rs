//! A task that must never run twice, in a service that runs in two processes during an upgrade.
//!
//! Every process serves; the process that has the lock leads as well. A process that is replaced releases the lock, and hands
//! its connections over. If it is killed, the kernel releases the lock. Run it with `cargo run -p leader`, ask it with
//! `nc 127.0.0.1 7003`, and replace it with `kill -HUP $(cat leader.pid)`. `leader.journal` names the leaders.

use nix::{errno::Errno, fcntl::Flock, fcntl::FlockArg};
use std::{fs::File, io, io::Write, process, time::Duration};
use tableflip::{Session, Shutdown, net::TcpListener, net::TcpStream};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, time::sleep};

/// flock(2), in a loop: a thread that blocks in this call could not be stopped.
async fn lock() -> io::Result<Flock<File>> {
    loop {
        let file = File::options().create(true).append(true).open("leader.journal")?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => sleep(Duration::from_millis(20)).await,
            locked => return locked.map_err(|(_, error)| error.into()),
        }
    }
}

async fn lead(mut shutdown: Shutdown) -> io::Result<()> {
    // The current step is finished first, whatever happens to the connections.
    let _guard = shutdown.guard();
    let mut journal = tokio::select! { lock = lock() => lock?, () = &mut shutdown => return Ok(()) };
    writeln!(journal, "{} leads", process::id())?;
    while !shutdown.is_raised() {
        sleep(Duration::from_millis(10)).await;
        writeln!(journal, "{} works", process::id())?;
    }
    writeln!(journal, "{} retires", process::id())
}

async fn answer(mut stream: TcpStream, mut shutdown: Shutdown) -> io::Result<()> {
    let (mut question, mut stays) = ([0; 64], false);
    loop {
        tokio::select! {
            read = stream.read(&mut question) => match read? {
                0 => return Ok(()),
                _ => stream.write_all(b"a process of this service\n").await?,
            },
            () = &mut shutdown, if !stays => match stream.hand_over(Session::new("status/1")).await {
                Ok(()) => return Ok(()),
                // It is served until the client leaves.
                Err(kept) => (stream, stays) = (kept, true),
            },
        }
    }
}

#[tableflip::main(pidfile = "leader.pid", listen = [status = "tcp://127.0.0.1:7003"])]
async fn main(status: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    let mut resumed = status.resumed(["status/1"]);
    let mut leader = tokio::spawn(lead(shutdown.clone()));
    loop {
        let shutdown = shutdown.clone();
        tokio::select! {
            accepted = status.accept() => drop(tokio::spawn(answer(accepted?.0, shutdown))),
            offer = resumed.next() => drop(tokio::spawn(async move { answer(offer.take().await?, shutdown).await })),
            // The shutdown, or an error: a process that cannot lead is of no use.
            led = &mut leader => return led?,
        }
    }
}
