//! The attribute macro of the [`tableflip`](https://docs.rs/tableflip) crate, which re-exports it and is the
//! crate to depend on.

// `attr` reads what the user typed, `valid` makes of it what is correct by construction, `expand` writes the
// generated function; `fallback` is what is emitted beside the errors.
mod attr;
mod expand;
mod fallback;
mod suggest;
mod valid;

// The runtime's own file, so that a literal is checked by the code that checks any other address when the service
// starts. It is public there, and this crate needs only a part of it.
#[allow(dead_code, unreachable_pub)]
mod address;

#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

/// Makes of a function a service that can be replaced by a new version of itself without a client noticing.
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
/// The generated function inherits the listeners from a predecessor or binds them, handles the signals, runs the
/// body, starts a successor when it is told to, and stops gracefully when it is replaced or stopped. It returns the
/// [`ExitCode`](std::process::ExitCode) of the service.
///
/// An `async fn` runs on tokio, a plain `fn` on a thread without tokio. The body returns `()`, a `Result<(), E>` or
/// anything else that is [`Termination`](std::process::Termination). The function need not be called `main`; one of
/// another name becomes a function without parameters, which runs the service when it is called and returns its
/// exit code. As the service takes over the signals and the environment of the process, it is to be called once, before
/// there is a second thread.
///
/// # Options
///
/// All of them are optional, and written `name = value`. An environment variable, where set, wins over the
/// attribute, so that one binary runs under a test, a unit file and a container.
///
/// | option | value | default | environment |
/// |---|---|---|---|
/// | `name` | what the service is called: a successor of another name is refused | none | |
/// | `listen` | a list of [entries](#listen-entries) | `[]` | `TABLEFLIP_LISTEN_<NAME>` |
/// | `pidfile` | the path of the file that names the process that serves | none | `TABLEFLIP_PIDFILE` |
/// | `control` | the path of the control socket, or `false` for none | the pid file with extension `control`; none without a pid file | `TABLEFLIP_CONTROL` |
/// | `upgrade_timeout` | how long a successor may take to become ready | `"60s"` | `TABLEFLIP_UPGRADE_TIMEOUT` |
/// | `probation` | how long a successor that serves is watched; if it dies meanwhile, this process serves again | `"3s"` | `TABLEFLIP_PROBATION` |
/// | `drain_timeout` | how long open connections may take to finish | `"30s"` | `TABLEFLIP_DRAIN_TIMEOUT` |
/// | `upgrade_signal` | the signal that starts an upgrade: `"SIGHUP"`, `"SIGUSR1"`, `"SIGUSR2"`, `"SIGQUIT"` or `"SIGWINCH"` | `"SIGHUP"` | `TABLEFLIP_UPGRADE_SIGNAL` |
/// | `overlap` | what a further upgrade does while the predecessor still drains: `"refuse"`, `"wait"` until it is gone, or `"hasten"`, which has it end within 1 s | `"refuse"` | `TABLEFLIP_OVERLAP` |
/// | `supervise` | whether the process that was started stays as the parent of the generations: `"auto"` if it is PID 1, `"always"`, `"never"` | `"auto"` | `TABLEFLIP_SUPERVISE` |
/// | `preflight` | a command of the shell that checks the new release before it gets a socket; `"$0"` is the executable | none | `TABLEFLIP_PREFLIGHT` |
/// | `flavor` | the runtime of an `async fn`: `"multi_thread"` or `"current_thread"` | `"multi_thread"` | |
/// | `worker_threads` | the threads of a `"multi_thread"` runtime, at least 1 | one for each core | |
/// | `crate` | the absolute path of the runtime crate, if it is not `::tableflip` but a re-export | `::tableflip` | |
///
/// A path is a string literal or any expression that is `Into<PathBuf>`, a command one that is `Into<OsString>`. A duration is a string literal such as
/// `"500ms"`, `"30s"` or `"1m 30s"`, checked when it is compiled, or any expression of type
/// [`Duration`](std::time::Duration). A number of threads is a literal or any expression of type `usize`.
///
/// # Listen entries
///
/// An entry is `name = address` or just an address. The address is a string literal, checked when it is compiled,
/// or any expression that yields a string or a `tableflip::Address`, checked when the service starts.
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
/// Port 0 is any free port; a successor inherits the one that was assigned. Two entries cannot have one address,
/// unless it is an IP address with port 0 or both say `reuse_port=true`.
///
/// # Parameters
///
/// Each parameter of the body is a plain name with a type; the two together say what it is:
///
/// * One that is named like an entry is that listener. The names must be the same; an entry whose parameter is
///   called `_echo` is called `_echo` as well.
/// * A `Shutdown`, `Ready`, `Upgrader`, `Listeners` or `Inherited` is a part of the harness. It is known by the last
///   segment of its path, so it cannot be renamed in an import.
/// * The entries without a name go to the other parameters, in order, and are called like them.
///
/// Beside `Listeners` an entry that has a name need not be a parameter: `Listeners::declared` takes it, before the service is
/// ready.
///
/// A listener can be taken as any type that is `tableflip::FromListener`: the managed types of `tableflip::net` and
/// `tableflip::blocking`, the raw ones of tokio and std, an `OwnedFd`, and those of other crates.
///
/// # Readiness
///
/// A body that takes `Ready` says itself when it is ready. Otherwise it is when every managed listener has been
/// asked for its first connection or datagram. Before that the predecessor goes on serving, however long the body
/// takes to initialise, up to the `upgrade_timeout`.
///
/// # Errors
///
/// Every mistake in the attribute and in the signature is reported in one compile, at its place:
///
/// * an option that does not exist, is given twice or does not fit the function, or a value that is no such thing;
/// * an address that does not parse, or that another listener has;
/// * a listener that no parameter takes, unless it has a name and one is `Listeners`, and a parameter that is neither a
///   listener nor a part of the harness;
/// * a listener whose literal address is not of a kind that its type is for;
/// * only raw listeners and no `Ready`, so that nothing would say when the service is ready;
/// * a function that is generic or `const`, `unsafe` or `extern`, or that takes `self`.
///
/// What can be known only at run time, such as an address that is in use, fails the start: the service says so in
/// one line on stderr and exits with status 1, and a predecessor goes on serving.
///
/// # Expansion
///
/// The attribute is a shorthand for the builder `tableflip::Service`. The example above becomes this, beside a
/// check that takes place when it is compiled:
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
/// Attributes and the visibility of the function stay on the generated one; what `allow`, `expect` or `deny` say
/// there holds for the body as well.
#[proc_macro_attribute]
pub fn main(attr: TokenStream, item: TokenStream) -> TokenStream {
    attribute(attr.into(), item.into()).into()
}

/// The pipeline, on tokens that exist outside of a compiler too.
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
