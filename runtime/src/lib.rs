//! Replace a running network service by a new version of itself. No client notices.
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
//! Put the new binary in the place of the old one and send SIGHUP. The running process, the *predecessor*, starts the
//! new one, the *successor*, and hands it the listening sockets. When the successor is ready, the predecessor stops
//! accepting and the successor serves. The predecessor watches it for a while, the *probation*. Then its open connections
//! [move](Session) to the successor, or it finishes them, and exits.
//!
//! [`main`](macro@main) documents the attribute. [`Service`] is a builder with the same options.
//!
//! # Promises
//!
//! 1. No old code keeps running after a successful upgrade.
//! 2. The new process has a grace period to initialise. The predecessor serves until the successor asks its listeners
//!    for a connection, or calls [`Ready::notify`].
//! 3. Crashing while it initialises is harmless: the predecessor goes on serving.
//! 4. Only one upgrade runs at a time. At any time there are one or two processes, and at most one of them is not
//!    ready.
//! 5. Crashing just *after* it became ready is harmless too. During the probation the predecessor takes over again.
//!    Later, while the predecessor still drains, it starts its own executable image again.
//!
//! A process that is killed loses the connections that it has. The other process serves the connections that wait in the
//! queue of a listener.
//!
//! # What a body may ask for
//!
//! The *body* is the code of your `main`. A parameter with the name of a listener is that listener. Its type is any
//! [`FromListener`]:
//!
//! * a *managed* type, which stops handing out connections by itself: of `net` in an `async fn`, of [`blocking`] in a
//!   plain `fn`
//! * a raw type of std or tokio, from which both processes of an upgrade take connections: see [`FromListener`]
//!
//! The other parameters are handles:
//!
//! * [`Shutdown`] resolves when the process is to finish.
//! * [`Ready`] lets the body report that it is ready.
//! * [`Upgrader`] upgrades and stops the service from within.
//! * [`Listeners`] takes and binds more listeners at run time.
//! * [`Inherited`] has the descriptors that the predecessor has passed on.
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
//! # Configuration
//!
//! The option `config` loads the configuration of the service, before anything is bound or taken. Every option and the
//! body can use it. An error is one line on stderr, and the reason of a failed upgrade. In the repository
//! `docs/configuration.md` has it with clap, with a file in TOML and with environment variables.
//!
//! ```no_run
//! use std::net::SocketAddr;
//! use tableflip::net::TcpListener;
//!
//! struct Config {
//!     listen: SocketAddr,
//!     greeting: String,
//! }
//!
//! impl Config {
//!     fn load() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
//!         let listen = std::env::var("LISTEN").map_err(|error| format!("LISTEN: {error}"))?.parse()?;
//!         let path = "/etc/greeting";
//!         let greeting = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
//!         Ok(Self { listen, greeting })
//!     }
//! }
//!
//! #[tableflip::main(config = Config::load()?, listen = [http = config.listen])]
//! async fn main(config: Config, http: TcpListener) -> std::io::Result<()> {
//!     drop(config.greeting);
//!     http.accept().await.map(drop)
//! }
//! ```
//!
//! [`configure`] does the same for the builder. A function that is not called `main` may have parameters of its own, which
//! its options can use.
//!
//! # When a process ends
//!
//! Once a process is replaced or stopped, its managed listeners hand out no more connections. The process ends when no
//! managed stream and no [`Guard`] is left. In these cases it also waits for the body to return ([`Shutdown`] has the
//! full rule):
//!
//! * The body itself awaits a [`Shutdown`].
//! * The `Shutdown` that the body was given, and not a clone, is awaited anywhere.
//! * The body serves by `http::serve`.
//! * The body takes a listener of [`blocking`], because the calls of such a listener end.
//! * The body itself waits for the next connection of an `incoming()` of `net`, which ends.
//!
//! Any other body is dropped. At `drain_timeout` the process aborts everything that is left. A body that blocks its
//! thread does not keep the process alive. A body that returns before it is asked to ends the process at once. The log
//! then has a warning, with the error of the [`Result`] that the body returned.
//!
//! | exit status | when |
//! |---|---|
//! | that of the body | it returned; 1 for an `Err`, 101 after a panic |
//! | 0 | the process was replaced or stopped, and its body was dropped |
//! | 1 | The start failed: one line on stderr says why, and so does the log of the predecessor. Or the service is down: its successor died, and no other could be started. |
//! | killed by the signal | a second SIGTERM, at least 1 s after the first signal, or a second Ctrl-C |
//!
//! # Signals
//!
//! SIGHUP, or the signal that `upgrade_signal` names, starts an upgrade. SIGTERM and Ctrl-C stop gracefully: the
//! process stops accepting, finishes its open connections, and removes the pid file and the Unix paths. A second
//! SIGTERM or Ctrl-C ends the process at once. SIGTERMs within a second of the first signal count as one, because a
//! wrapper and the service manager may both send it. Ctrl-C counts each time.
//!
//! A body that installs a handler of its own for these signals, before the service is ready, gets them as well. With the
//! crate `ctrlc` this means before the first accept, or before [`Ready::notify`]; later `ctrlc::set_handler` fails.
//! Ctrl-C that was ignored when the first process began is ignored by every generation.
//!
//! A SIGHUP is a hang-up if the terminal was closed, and stops the service. It means nothing to a service that was started
//! with SIGHUP ignored, as by nohup(1). Otherwise SIGHUP is a request to upgrade.
//!
//! A request that cannot be served is refused, and the log has the reason: not ready yet, an upgrade is in progress,
//! the predecessor is on standby or still draining, terminating.
//!
//! # Environment
//!
//! A variable that is set wins over the declaration of the service. An unknown variable with the prefix `TABLEFLIP_`,
//! or a value that does not parse, stops the start. One line on stderr names the variable.
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
//! | `TABLEFLIP_PROBE` | a request such as `GET /healthz` or `http GET /healthz 204`, or `false` |
//! | `TABLEFLIP_VERIFY` | a command of the shell; `true` checks nothing |
//!
//! Under systemd the process also reads the variables of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3). It
//! removes them, so that no program that the service starts takes them for its own. A process that has several threads
//! by then removes nothing: code in another thread may read the environment.
//!
//! `TABLEFLIP_HANDOVER` and `TABLEFLIP_SUPERVISOR` are internal. A process sets them for a process that it starts. They
//! name that process, and another one passes over them.
//!
//! # Under systemd
//!
//! With `Type=notify` a start waits until the service is ready, a reload is an upgrade, and a stop drains. This stays
//! true after any number of upgrades. The successor is a child of systemd from the beginning, and becomes its main
//! process when it has passed its probation.
//!
//! Sockets of a socket unit are matched to `listen` by name, else by address. With `FileDescriptorStoreMax=` the
//! listeners outlive a crash. With `WatchdogSec=` systemd also watches the runtime of an `async fn main`. In the
//! repository `docs/systemd.md` has the units, and `docs/containers.md` covers docker, Kubernetes, supervisord and
//! runit.
//!
//! # Events
//!
//! Events go through `tracing`, with the target `tableflip`. Every event has the fields `generation` and `pid`. If the
//! service has no subscriber, warnings and errors go to stderr. Each is one line with both fields. A failure that
//! repeats, such as an accept without a free descriptor, is reported once in 10 s.
//!
//! If stderr takes no data, for example a pipe without a reader, a line waits 100 ms. The part that stderr has not
//! taken by then is left out. The thread that upgrades and stops the service calls the subscriber, so the subscriber
//! must not block.
//!
//! # Platforms
//!
//! The platform is Linux. On other Unix systems and on Windows the same service compiles, runs and stops gracefully.
//! Ctrl-C, and on Unix SIGTERM, drain the service as on Linux. The environment, the pid file, [`testing`] and `http`
//! work. The rest fails visibly or differs:
//!
//! * An upgrade fails with [`UpgradeError::Unsupported`], and the upgrade signal is refused in the log. Every process
//!   is generation 1, and [`Inherited`] is empty. A descriptor that is [passed on](Upgrader::pass_on) goes nowhere.
//! * An address or an option that the platform does not have stops the start. Outside Linux these are the abstract
//!   namespace, `freebind`, `device` and `fastopen`. On Windows they are also `unix://` and `reuse_port`.
//! * An `OwnedFd` is an `OwnedSocket` on Windows, which has no Unix types.
//! * A waiting thread of [`blocking`] looks at its socket every few milliseconds.
//!
//! # Features
//!
//! * `tokio` (default): `async fn main`, and the managed types of `net`.
//! * `http`: `http::serve`, which serves HTTP/1.1 and HTTP/2 and loses no request at a drain.
//! * `axum-08`: the managed listeners are listeners of `axum::serve` of axum 0.8, and `http::serve` fills in its
//!   `ConnectInfo`.
//! * `futures-03`: `net::Incoming` is a `Stream` of futures-core 0.3.
//! * `websocket`: WebSockets of tokio-tungstenite that can be taken apart and put together again.
//! * `cli`: the program `tableflip`, by `cargo install tableflip --features cli`; and `program`, its commands as subcommands of a
//!   service.
//!
//! # What it is not
//!
//! It moves no connection of HTTP/2 or TLS: the predecessor finishes these. It does not supervise a service that crashes
//! without a predecessor. It does not restart on a file change: the operator decides when to upgrade.

// The wings, in their order. Each wing uses only the wings above it: `tests/tests/imports.rs` reads every import.
mod sys;

mod base;

#[cfg_attr(not(upgrades), allow(dead_code, reason = "what concerns a successor never happens"))]
mod lifecycle;

mod config;

mod outside;

mod moving;

mod between;

pub mod control;

mod engine;

pub mod blocking;
#[cfg(feature = "tokio")]
pub mod net;

#[cfg(feature = "axum-08")]
mod axum;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "websocket")]
pub mod websocket;

mod run;

pub mod testing;

#[cfg(feature = "cli")]
pub mod program;

mod private;

pub use base::address::Address;
pub use base::error::{
    Failure, ParseOptionError, PassOnError, RevertError, StartError, UpgradeError, UpgradeStep,
};
pub use base::probe::Probe;
pub use base::returned::Returned;
pub use base::status::{self, Status};
pub use between::drain::{Guard, Shutdown};
pub use between::handles::{Inherited, Ready, Upgrader};
pub use between::listeners::Listeners;
pub use between::managed::ListeningSocket;
pub use between::note::{Reverted, Upgraded};
pub use between::params::{BodyKind, FromHandle, FromListener, ListenerSocket, Start};
#[cfg(feature = "tokio")]
pub use config::choices::Flavor;
pub use config::choices::{Supervise, UpgradeSignal};
pub use config::convert::{ControlPath, Setting};
pub use config::service::Service;
pub use lifecycle::Overlap;
pub use moving::session::{Session, State, StateError};
pub use run::service::configure;
pub use tableflip_macros::main;

/// The parts of an [`Address`].
pub mod address {
    pub use crate::base::address::{Address, Host, Kind, Options, ParseAddressError, Place};
}

#[doc(hidden)]
pub mod __private {
    pub use crate::private::{
        NoError, NotAListener, Package, Probe, Type, check_kinds, check_readiness, fits, in_async_fn,
        in_plain_fn, package, readiness, takes, told,
    };
}
