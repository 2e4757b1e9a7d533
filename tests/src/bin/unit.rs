//! The service of the unit files in docs/systemd.md. A client asks it by lines.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread;

use rustix::process::{getpid, set_child_subreaper};
use tableflip::net::{TcpListener, TcpStream};
use tableflip::{Shutdown, Upgrader};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Notify;

#[tableflip::main(pidfile = "/run/echo/echo.pid", listen = [echo = "tcp://127.0.0.1:7000"], worker_threads = 2)]
async fn main(echo: TcpListener, upgrader: Upgrader, shutdown: Shutdown) -> io::Result<()> {
    let pid = std::process::id();
    println!("generation {} is process {pid} at {}", upgrader.generation(), echo.local_addr()?);
    // Orphans of its own helpers would be its, and a successor that is started in a roundabout way as well.
    if std::env::var_os("UNIT_SUBREAPER").is_some() {
        set_child_subreaper(Some(getpid()))?;
    }
    // It initialises for as long as the test wants.
    if let Some(gate) = std::env::var_os("UNIT_GATE").filter(|gate| std::path::Path::new(gate).exists()) {
        tokio::task::spawn_blocking(|| File::open(gate)?.read_exact(&mut [0])).await??;
    }
    let hang = Arc::new(Notify::new());
    loop {
        tokio::select! {
            () = hang.notified() => block(),
            accepted = echo.accept() => {
                let (stream, _peer) = accepted?;
                tokio::spawn(converse(stream, upgrader.clone(), shutdown.clone(), hang.clone()));
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    upgrader: Upgrader,
    shutdown: Shutdown,
    hang: Arc<Notify>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let answer = match line.trim_end() {
            "who" => format!("{} {}", upgrader.generation(), std::process::id()),
            "abort" => std::process::abort(),
            // The body blocks its thread.
            "hang" => {
                hang.notify_one();
                "hanging".to_owned()
            }
            // Tasks block every thread of the runtime.
            "hang-tasks" => {
                for _ in 0..8 {
                    tokio::spawn(async { block() });
                }
                "hanging".to_owned()
            }
            // Ends the service from within.
            "stop" => {
                upgrader.stop();
                "stopping".to_owned()
            }
            "environment" => format!("{:?}", std::env::var_os("NOTIFY_SOCKET")),
            "draining" => shutdown.is_raised().to_string(),
            "drain-timeout" => format!("{:?}", shutdown.drain_timeout()),
            other => format!("echo {other}"),
        };
        stream.write_all((answer + "\n").as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

fn block() {
    loop {
        thread::park();
    }
}
