//! Every lint that a careful project turns on.

#![deny(warnings, future_incompatible, nonstandard_style, rust_2018_idioms, unused)]
#![deny(
    missing_copy_implementations,
    missing_debug_implementations,
    missing_docs,
    redundant_imports,
    redundant_lifetimes,
    single_use_lifetimes,
    trivial_casts,
    trivial_numeric_casts,
    unit_bindings,
    unnameable_types,
    unreachable_pub,
    unsafe_code,
    unused_import_braces,
    unused_lifetimes,
    unused_qualifications,
    unused_results,
    variant_size_differences
)]
#![deny(clippy::all, clippy::pedantic, clippy::absolute_paths)]
#![deny(clippy::exit, clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::env;
use std::future::pending;
use std::io;
use std::process::ExitCode;
use std::time::Duration;
use tableflip::net::TcpListener;
use tableflip::{Flavor, Ready, Shutdown};
use tokio::net::UdpSocket;

const DRAIN: Duration = Duration::from_secs(5);

/// Serves.
#[tableflip::main(
    crate = ::tableflip,
    listen = [echo = "tcp://127.0.0.1:7000", dns = "udp://127.0.0.1:53"],
    pidfile = "/run/a.pid",
    drain_timeout = DRAIN,
    flavor = "multi_thread",
)]
async fn service(echo: TcpListener, mut dns: UdpSocket, shutdown: Shutdown) -> io::Result<()> {
    let socket = &mut dns;
    let _: &UdpSocket = socket;
    shutdown.await;
    keep(echo);
    Ok(())
}

/// Waits.
#[tableflip::main(crate = ::tableflip)]
fn other(ready: Ready) -> ExitCode {
    ready.notify();
    ExitCode::SUCCESS
}

mod outer {
    pub(crate) use tableflip::*;
}
use outer::{Service, address::Kind};

/// Names are imported that the expansion writes out in full.
#[tableflip::main(crate = crate::outer, listen = [echo = "udp://127.0.0.1:53"], flavor = "current_thread")]
async fn reexported(echo: Datagrams, ready: Ready) {
    ready.notify();
    keep::<(Option<Service>, Option<Flavor>, Option<Kind>)>((None, None, None));
    pending::<()>().await;
    keep(echo);
}

type Datagrams = UdpSocket;

fn keep<T>(value: T) {
    drop(value);
}

fn main() -> ExitCode {
    // A test that is run opens no socket.
    if env::args().count() > 1000 {
        return if service() == ExitCode::SUCCESS { other() } else { reexported() };
    }
    ExitCode::SUCCESS
}
