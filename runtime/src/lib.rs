//! Replace a running network service by a new version of itself without one client noticing.
//!
//! ```no_run
//! use std::io;
//! use tableflip::net::TcpListener;
//!
//! #[tableflip::main(pidfile = "/run/echo.pid", listen = [echo = "tcp://127.0.0.1:7000"])]
//! async fn main(echo: TcpListener) -> io::Result<()> {
//!     loop {
//!         let (mut stream, _peer) = echo.accept().await?;
//!         tokio::spawn(async move {
//!             let (mut read, mut write) = stream.split();
//!             tokio::io::copy(&mut read, &mut write).await
//!         });
//!     }
//! }
//! ```
//!
//! Put the new binary in the place of the old one and send SIGHUP. The running process starts the new one and hands it
//! the listening sockets; when the new one is ready the old one stops accepting, watches it for a while, finishes the
//! connections it has, and exits. [`main`](macro@main) documents the attribute, [`Service`] says the same without it.
//!
//! # Promises
//!
//! 1. No old code keeps running after a successful upgrade.
//! 2. The new process has a grace period to initialise: until it asks its listeners for a connection, or says
//!    [`Ready::notify`], the old one serves.
//! 3. Crashing while it initialises is harmless: the old one goes on serving.
//! 4. Only one upgrade runs at a time; at any time there are one or two processes, at most one of them not ready.
//! 5. Crashing just *after* it became ready is harmless too: in its probation the old process takes over again, and
//!    later, while that one still drains, it starts its own executable image again.
//!
//! A process that is killed takes the connections with it that it had accepted; those that wait in the queue of a
//! listener are served by the other one.
//!
//! # What a body may ask for
//!
//! A parameter named like a listener is that listener, as any type that is [`FromListener`]: a *managed* one of `net` in
//! an `async fn`, of [`blocking`] in a plain `fn`, or a raw one of std or tokio. The others are parts of the harness: [`Shutdown`], which resolves when the process is
//! to finish; [`Ready`], to say when it is ready; [`Upgrader`], to upgrade and stop from within; [`Listeners`], to take and bind more at run time;
//! [`Inherited`], what the predecessor has passed on.
//!
//! ```no_run
//! use tableflip::{Ready, Shutdown, net::TcpListener};
//!
//! #[tableflip::main(listen = [jobs = "tcp://127.0.0.1:7001"], drain_timeout = "2m")]
//! async fn main(jobs: TcpListener, ready: Ready, shutdown: Shutdown) -> std::io::Result<()> {
//!     // ... read the configuration, warm the caches ...
//!     ready.notify();
//!     loop {
//!         let (stream, _peer) = jobs.accept().await?;
//!         let guard = shutdown.guard();
//!         tokio::spawn(async move {
//!             // The process waits for this task, also after the stream is closed.
//!             let _guard = guard;
//!             drop(stream);
//!         });
//!     }
//! }
//! ```
//!
//! # When a process ends
//!
//! Once it is replaced or stopped, managed listeners hand out no more connections, and the process ends when no managed
//! stream and no [`Guard`] is left. It waits for the body to return as well if the body itself awaits a [`Shutdown`], if the
//! `Shutdown` that it was given, and not a clone, is awaited anywhere, if it serves by `http::serve`, or if it takes a
//! listener of [`blocking`], whose calls end; [`Shutdown`] has the rule. Any other body is dropped. At `drain_timeout` what is left is aborted; a body that
//! blocks its thread does not keep the process alive. A body that returns unasked ends the process at once, with a warning in
//! the log; the error of a [`Result`] that it returns is in it.
//!
//! | exit status | when |
//! |---|---|
//! | that of the body | it returned; 1 for an `Err`, 101 after a panic |
//! | 0 | the process was replaced or stopped, and its body was dropped |
//! | 1 | the start failed: one line on stderr says why, and so does the log of the predecessor; or the service is down: its successor died, and no other could be started |
//! | killed by the signal | a second SIGTERM, at least 1 s after the first signal, or a second Ctrl-C |
//!
//! # Signals
//!
//! SIGHUP, or the one that `upgrade_signal` names, upgrades. SIGTERM and Ctrl-C stop gracefully: accepting ends, open
//! connections are finished, the pid file and the Unix paths are removed. A second one ends the process at once. SIGTERMs
//! within a second of the first signal are one, for a wrapper and the service manager may both send it; Ctrl-C counts
//! each time.
//! A request that cannot be served is refused with its reason in the log: not ready yet, an upgrade is in progress,
//! the predecessor is still draining, terminating.
//!
//! # Environment
//!
//! Each variable, where set, wins over what the service declares. One that does not parse, or of this prefix and
//! unknown, stops the start with one line that names it.
//!
//! | variable | value |
//! |---|---|
//! | `TABLEFLIP_LISTEN_<NAME>` | the [`Address`] of a listener; its name in upper case, with `_` for `-` |
//! | `TABLEFLIP_PIDFILE` | a path, relative to the first working directory |
//! | `TABLEFLIP_CONTROL` | the path of the control socket, or `false` |
//! | `TABLEFLIP_UPGRADE_TIMEOUT`, `TABLEFLIP_PROBATION`, `TABLEFLIP_DRAIN_TIMEOUT` | `500ms`, `30s`, `2m` |
//! | `TABLEFLIP_UPGRADE_SIGNAL` | `SIGHUP`, `SIGUSR1`, `SIGUSR2`, `SIGQUIT` or `SIGWINCH` |
//! | `TABLEFLIP_OVERLAP` | `refuse`, `wait` or `hasten` |
//! | `TABLEFLIP_SUPERVISE` | `auto`, `always` or `never` |
//! | `TABLEFLIP_PREFLIGHT` | a command of the shell; `true` checks nothing |
//!
//! Under systemd the variables of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3) are taken as well, and removed, so
//! that nothing that the service starts takes them for its own.
//!
//! `TABLEFLIP_HANDOVER` and `TABLEFLIP_SUPERVISOR` are the harness's own: a process sets them for one that it starts, which
//! removes them.
//!
//! # Under systemd
//!
//! With `Type=notify` a start waits until the service is ready, a reload is an upgrade, and a stop drains, after any number of
//! upgrades: the successor is a child of systemd from the beginning, and becomes its main process when it has passed its
//! probation. Sockets of a socket unit are matched to `listen` by name, else by address; with `FileDescriptorStoreMax=` the
//! listeners outlive a crash; with `WatchdogSec=` the runtime of an `async fn main` is watched. `docs/systemd.md` of the
//! repository has the units, `docs/containers.md` docker, Kubernetes, supervisord and runit.
//!
//! # Events
//!
//! The harness speaks through `tracing`, target `tableflip`; every event has the fields `generation` and `pid`. Where
//! the service has no subscriber, warnings and errors reach stderr, each as one line with both. What is tried over and over
//! and fails each time, such as an accept without a descriptor left, is said once in 10 s. A stderr that takes nothing, as a pipe
//! that nobody reads, is waited for 100 ms, and what it does not take is left out. A subscriber is called by the thread that
//! upgrades and stops the service: it must not block.
//!
//! # Platforms
//!
//! Linux is the platform. Elsewhere on Unix, and on Windows, the same service compiles, runs and stops gracefully: Ctrl-C,
//! and on Unix SIGTERM, drain it as they do on Linux, and the environment, the pid file, [`testing`] and `http` work. What
//! cannot work there says so:
//!
//! * an upgrade answers [`UpgradeError::Unsupported`], and the signal for it is refused in the log; every process is
//!   generation 1, [`Inherited`] is empty, and what is [passed on](Upgrader::pass_on) goes nowhere;
//! * an address or an option of one that the platform does not have stops the start: the abstract namespace, `freebind`,
//!   `device` and `fastopen` outside Linux, on Windows `unix://` and `reuse_port` too;
//! * an `OwnedFd` is an `OwnedSocket` on Windows, where there are no Unix types;
//! * a waiting thread of [`blocking`] looks at its socket every few milliseconds.
//!
//! # Features
//!
//! * `tokio` (default): `async fn main`, and the managed types of `net`.
//! * `http`: `http::serve`, HTTP/1.1 and HTTP/2 that lose no request at a drain.
//! * `axum`: the managed listeners are listeners of `axum::serve`.
//! * `cli`: the program `tableflip`, `cargo install tableflip --features cli`.
//!
//! # What it is not
//!
//! It does not move connections that are open from one process to the next, does not supervise a service that crashes
//! without a predecessor, and does not restart on a file change: whoever deploys decides when.

mod address;
#[cfg(feature = "axum")]
mod axum;
mod body;
pub mod control;
mod drain;
mod environment;
mod error;
mod fd;
mod gate;
#[cfg(feature = "http")]
pub mod http;
#[cfg_attr(not(upgrades), allow(dead_code, reason = "what concerns a successor never happens"))]
mod lifecycle;
#[cfg(all(test, loom, upgrades))]
mod models;
mod params;
mod path_text;
mod pidfile;
mod private;
mod report;
mod returned;
mod service;
mod shared;
pub mod status;
mod stops;
mod sync;
pub mod testing;

// Rooms that exist twice, with the same interface: where a process can be upgraded, and in `portable/` where not.
#[cfg_attr(not(upgrades), path = "portable/begin.rs")]
mod begin;
#[cfg_attr(not(upgrades), path = "portable/blocking.rs")]
pub mod blocking;
#[cfg_attr(not(upgrades), path = "portable/engine.rs")]
mod engine;
#[cfg(feature = "tokio")]
#[cfg_attr(not(upgrades), path = "portable/net.rs")]
pub mod net;
#[cfg_attr(not(upgrades), path = "portable/signals.rs")]
mod signals;
#[cfg_attr(not(upgrades), path = "portable/sockets.rs")]
mod sockets;
#[cfg_attr(not(upgrades), path = "portable/wake.rs")]
mod wake;

// What only an upgrade needs.
#[cfg(all(test, upgrades))]
mod fault;
#[cfg(upgrades)]
mod handover;
#[cfg(upgrades)]
mod hint;
#[cfg(upgrades)]
mod outgoing;
#[cfg(upgrades)]
mod pidfd;
#[cfg(upgrades)]
mod poll;
#[cfg(upgrades)]
mod preflight;
#[cfg(upgrades)]
mod proof;
#[cfg(upgrades)]
mod spawn;
#[cfg(upgrades)]
mod supervise;
#[cfg(upgrades)]
mod systemd;

pub use address::{Address, Host, Kind, Options, ParseAddressError, Place};
pub use drain::{Guard, Shutdown};
pub use error::{StartError, UpgradeError};
pub use params::{FromHarness, FromListener, Inherited, ListenerSocket, Listeners, Ready, Start, Upgrader};
pub use returned::Returned;
#[cfg(feature = "tokio")]
pub use service::Flavor;
pub use service::{IntoAddress, IntoControl, IntoDuration, Service};
pub use shared::Upgraded;
pub use status::Status;
pub use tableflip_macros::main;

#[doc(hidden)]
pub mod __private {
    #[cfg(all(feature = "cli", upgrades))]
    pub use crate::private::check;
    pub use crate::private::{
        NoError, NotAListener, Package, Probe, Type, check_kinds, check_readiness, package, readiness, takes,
        told,
    };
    #[cfg(upgrades)]
    pub use crate::proof::{Proven, Unproven, Unsent, process_behind, prove};
}
