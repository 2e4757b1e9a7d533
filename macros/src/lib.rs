//! The attribute macro of the [`tableflip`](https://docs.rs/tableflip) crate, which re-exports it and is the
//! crate to depend on.

// The pipeline: `attr` reads the text of the user, `valid` makes a `service` of it, `expand` writes the generated function.
// `fallback` is the output beside errors.
mod attr;
mod expand;
mod fallback;
mod literal;
mod service;
mod suggest;
mod types;
mod valid;

// A file of the runtime: the compiler checks a literal address with the code that checks every other address at the start of the
// service. The file is public there, and this crate needs only a part of it.
#[allow(dead_code, unreachable_pub)]
mod address;

// The same for a literal of the option `probe`.
#[allow(dead_code, unreachable_pub)]
mod probe;

#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

/// Turns a function into a service that a new version of itself can replace, and no client notices.
///
/// ```ignore
/// use std::io;
/// use tableflip::net::TcpListener;
///
/// #[tableflip::main(pidfile = "/run/echo.pid", listen = [echo = "tcp://127.0.0.1:7000"])]
/// async fn main(echo: TcpListener) -> io::Result<()> {
///     loop {
///         let (mut stream, _peer) = echo.accept().await?;
///         tokio::spawn(async move {
///             let (mut read, mut write) = stream.split();
///             tokio::io::copy(&mut read, &mut write).await
///         });
///     }
/// }
/// ```
///
/// The generated function inherits the listeners from a predecessor or binds them. It handles the signals and runs the body. On
/// request it starts a successor. When it is replaced or stopped, it drains. It returns the
/// [`ExitCode`](std::process::ExitCode) of the service.
///
/// An `async fn` runs on tokio (a default feature), a plain `fn` on a thread without tokio. The body returns `()`, a `Result<(), E>`
/// or any other [`Termination`](std::process::Termination).
///
/// The function can have another name than `main`. It then becomes a function which runs the service and returns its exit code. The service takes over the signals and the environment of the process, so call that function once, before
/// the process has a second thread.
///
/// # Options
///
/// Every option is optional, and written `name = value`. An environment variable overrides the attribute, so one binary runs under
/// a test, a unit file and a container.
///
/// | option | value | default | environment |
/// |---|---|---|---|
/// | `name` | the name of the service: a successor with another name is refused | none | |
/// | `config` | an expression that loads the [configuration](#configuration) | none | |
/// | `listen` | a list of [entries](#listen-entries) | `[]` | `TABLEFLIP_LISTEN_<NAME>` |
/// | `pidfile` | the path of the pid file, which names the serving process | none | `TABLEFLIP_PIDFILE` |
/// | `control` | the path of the control socket, or `false` for none | the pid file with extension `control`; none without a pid file | `TABLEFLIP_CONTROL` |
/// | `upgrade_timeout` | the time for a successor to become ready | `"60s"` | `TABLEFLIP_UPGRADE_TIMEOUT` |
/// | `probation` | how long this process watches a successor that serves; if the successor dies in that time, this process serves again | `"3s"` | `TABLEFLIP_PROBATION` |
/// | `drain_timeout` | the time for open connections to finish | `"30s"` | `TABLEFLIP_DRAIN_TIMEOUT` |
/// | `upgrade_signal` | the signal that starts an upgrade: `"SIGHUP"`, `"SIGUSR1"`, `"SIGUSR2"`, `"SIGQUIT"` or `"SIGWINCH"` | `"SIGHUP"` | `TABLEFLIP_UPGRADE_SIGNAL` |
/// | `overlap` | the answer to a further upgrade while the predecessor still drains: `"refuse"`, `"wait"` until the predecessor is gone, or `"hasten"`, which ends the predecessor within 1 s | `"refuse"` | `TABLEFLIP_OVERLAP` |
/// | `supervise` | whether the first process stays as the supervisor of the generations: `"auto"` if it is PID 1, `"always"`, `"never"` | `"auto"` | `TABLEFLIP_SUPERVISE` |
/// | `preflight` | a shell command that checks the new release before that release gets a socket; `"$0"` is the executable | none | `TABLEFLIP_PREFLIGHT` |
/// | `probe` | a request that the prepared successor must answer before it serves, such as `"GET /healthz"` or `"http GET /healthz 204"` | none | `TABLEFLIP_PROBE` |
/// | `verify` | a shell command that checks the successor while it serves on probation; if it fails, this process serves again | none | `TABLEFLIP_VERIFY` |
/// | `flavor` | the runtime of an `async fn`: `"multi_thread"` or `"current_thread"` | `"multi_thread"` | |
/// | `worker_threads` | the number of threads of a `"multi_thread"` runtime, at least 1 | one for each core | |
/// | `runtime` | a function that changes the `tokio::runtime::Builder` of an `async fn` | none | |
/// | `crate` | the absolute path of the runtime crate, if it is not `::tableflip` but a re-export | `::tableflip` | |
///
/// A value is a literal, which the compiler checks, or an expression of the type of the option:
///
/// * a duration: text such as `"500ms"`, `"30s"` or `"1m 30s"`, or a [`Duration`](std::time::Duration)
/// * a path, a command: text, a [`Path`](std::path::Path), an [`OsStr`](std::ffi::OsStr)
/// * a number of threads: `usize` or `NonZeroUsize`
/// * `upgrade_signal`, `overlap`, `supervise`, `flavor`: text, or `tableflip::UpgradeSignal`, `Overlap`, `Supervise`, `Flavor`
///
/// An expression may be of the owned or of the borrowed type, and of an `Option`: `None` leaves the option as it is. A variable or a
/// field is borrowed, so the body can still take it.
///
/// # Configuration
///
/// The expression of `config` is evaluated once, before anything is bound or taken from a predecessor. Every other option can use
/// its value, by the name `config`. The body gets the value as its parameter `config`, if it has one.
///
/// ```ignore
/// use std::{fs, io};
/// use tableflip::net::TcpListener;
///
/// struct Config {
///     listen: String,
/// }
///
/// impl Config {
///     fn load() -> io::Result<Self> {
///         Ok(Self { listen: fs::read_to_string("/etc/echo.conf")?.trim().to_owned() })
///     }
/// }
///
/// #[tableflip::main(config = Config::load()?, listen = [http = config.listen])]
/// async fn main(config: Config, http: TcpListener) -> io::Result<()> {
///     drop(config);
///     http.accept().await.map(drop)
/// }
/// ```
///
/// The expression may use `?` with any error that is `Send + Sync`. Then the start ends: one line on stderr says why, and it is the
/// reason of a failed upgrade. The expression may also end the process, as a parser of arguments does for `--help`. A successor
/// evaluates the expression anew, with the arguments and the environment of the first start.
///
/// A function that is not called `main` may instead take the configuration as a parameter of its own: a parameter that is neither a
/// listener nor a handle. The generated function has this parameter too. So `main` deals with subcommands, and calls the service: a
/// plain function, which starts the runtime itself and returns an `ExitCode`.
///
/// # Listen entries
///
/// An entry is `name = address` or only an address. The address is a literal, which the compiler checks, or an expression, which the
/// start of the service checks: text, a `tableflip::Address`, a [`SocketAddr`](std::net::SocketAddr), or the path of a Unix socket.
/// A listener whose address is `None` is not opened, and the body takes it as an `Option`.
///
/// ```text
/// tcp://HOST:PORT        bare HOST:PORT is the same    HOST may be a name, an IPv4 or a [bracketed IPv6] address
/// udp://HOST:PORT
/// unix:///path           bare /path is the same        unix:@name is in the abstract namespace
/// unix-dgram:///path     unix-seqpacket:///path
/// ?key=value&...         backlog, reuse_port, v6only, nodelay, keepalive, fastopen, freebind, device,
///                        recv_buffer, send_buffer for IP sockets; mode, user, group for Unix paths
/// ```
///
/// Port 0 is any free port; a successor inherits the assigned port. Two entries cannot have the same address, unless the port is 0
/// or both have `reuse_port=true`.
///
/// # Parameters
///
/// Each parameter of the body is a plain name with a type. Name and type decide what the parameter is:
///
/// * The parameter `config` is the value of the option `config`.
/// * A parameter with the name of an entry is that listener. The two names must be equal: the entry for a parameter `_echo` has the
///   name `_echo` too.
/// * A `Shutdown`, `Ready`, `Upgrader`, `Listeners` or `Inherited` is a handle. The macro knows a handle by the last
///   segment of its path, so an import cannot rename it.
/// * The other parameters take the entries without a name, in order. Each of these listeners has the name of its parameter.
/// * In a function that is not called `main`, further parameters are its own. An entry for a listener type of your own then needs a
///   name.
///
/// In a body with `Listeners` an entry with a name needs no parameter: `Listeners::declared` takes it, before the service is
/// ready.
///
/// A parameter can take a listener as any type that is `tableflip::FromListener`: the managed types of `tableflip::net` and
/// `tableflip::blocking`, the raw types of tokio and std, an `OwnedFd`, and types of other crates.
///
/// # Readiness
///
/// A body with `Ready` reports by itself that it is ready. Any other body is ready when it has asked every managed listener for its
/// first connection or datagram. Until then the predecessor serves, for at most the `upgrade_timeout`.
///
/// # Errors
///
/// One compile reports every mistake in the attribute and in the signature, each at its place:
///
/// * an option that does not exist, is set twice or does not fit the function, or a value of the wrong form;
/// * an address that does not parse, or that another listener has;
/// * a listener without a parameter, unless it has a name and the body takes `Listeners`;
/// * a parameter of `main` that is neither a listener nor a handle nor the configuration;
/// * a type that does not fit the kind of its listener, if the address is a literal;
/// * a type that needs tokio in a plain `fn`, or one of `tableflip::blocking` in an `async fn`;
/// * another attribute that starts a runtime, such as `#[tokio::main]`;
/// * only raw listeners and neither `Ready` nor `Listeners`, because nothing then reports that the service is ready;
/// * a function that is generic or `const`, `unsafe` or `extern`, or that takes `self`.
///
/// A mistake that only the run shows, such as an address in use, fails the start: the service prints one line on stderr and exits
/// with status 1, and a predecessor keeps serving.
///
/// # Expansion
///
/// The attribute is a shorthand for the builder `tableflip::Service`. The example above becomes this, with a further check for the
/// compiler:
///
/// ```ignore
/// fn main() -> ::std::process::ExitCode {
///     async fn main(echo: TcpListener) -> io::Result<()> {
///         // the body, as it was written
///     }
///     ::tableflip::Service::new()
///         .listen("echo", "tcp://127.0.0.1:7000")
///         .pidfile("/run/echo.pid")
///         .version(::core::option_env!("CARGO_PKG_VERSION"))
///         .run(|start| {
///             let echo = start.listener::<TcpListener>("echo")?;
///             ::core::result::Result::Ok(main(echo))
///         })
/// }
/// ```
///
/// The generated function has the attributes and the visibility of yours; an `allow`, `expect` or `deny` among them applies to the
/// body too.
#[proc_macro_attribute]
pub fn main(attr: TokenStream, item: TokenStream) -> TokenStream {
    attribute(attr.into(), item.into()).into()
}

/// The pipeline, on tokens that also exist outside of a compiler, for the tests.
fn attribute(attr: proc_macro2::TokenStream, item: proc_macro2::TokenStream) -> proc_macro2::TokenStream {
    let function: attr::Function = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(error) => return fallback::item(&error.into_compile_error(), &item),
    };
    let mut errors = attr::Errors::default();
    let attr = attr::Attr::parse(attr, &mut errors);
    match valid::service(&attr, &function, errors) {
        Ok(service) => expand::expand(&service, &function),
        Err(errors) => fallback::function(&errors, &function),
    }
}
