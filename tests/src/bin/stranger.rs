//! A program that is no service of this crate, and handles the signals of one: it stands for a process that has the number of a
//! dead service.
//!
//! It says `ready` on stdout. When its stdin ends it says how many SIGHUP and SIGTERM it has got, as `1 0`, and ends.

use std::io::{self, Read};
use std::pin::pin;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> io::Result<()> {
    let (mut hangups, mut stops) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    let (alive, end) = oneshot::channel::<()>();
    thread::spawn(move || {
        let end = io::stdin().read(&mut [0]);
        drop(alive);
        end
    });
    println!("ready");
    let (mut hung_up, mut stopped) = (0, 0);
    let mut end = pin!(end);
    loop {
        tokio::select! {
            // What has arrived by the end counts.
            biased;
            _ = hangups.recv() => hung_up += 1,
            _ = stops.recv() => stopped += 1,
            _ = &mut end => break,
        }
    }
    println!("{hung_up} {stopped}");
    Ok(())
}
