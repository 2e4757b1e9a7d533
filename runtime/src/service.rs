//! What is declared: the options, the listeners and what the environment overrides; and the start itself.

#[cfg(feature = "tokio")]
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{ExitCode, Termination};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};

use crate::address::{Address, ParseAddressError};
use crate::engine::{Engine, Parent, Timeouts};
use crate::environment::{self, Environment};
use crate::error::StartError;
use crate::handover::channel::{Channel, Received};
use crate::handover::message::{Entry, MAX_SOCKETS, Message, Speaker, printable};
use crate::params::Start;
use crate::pidfile::Pidfile;
use crate::report::to_stderr;
use crate::shared::{Note, Shared, Verdict};
use crate::signals;
use crate::sockets::{self, Held};
use crate::spawn::{HANDOVER, Launch};

/// How long the offer of a predecessor may take: it is in the channel before this process exists.
const OFFER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest name of a listener, in bytes.
const MAX_NAME: usize = 64;

/// A service: what the attribute says, and what it expands to.
///
/// ```no_run
/// use std::process::ExitCode;
/// use tableflip::{Service, net::TcpListener};
///
/// fn main() -> ExitCode {
///     Service::new()
///         .pidfile("/run/echo.pid")
///         .listen("echo", "tcp://127.0.0.1:7000")
///         .run(|start| {
///             let echo: TcpListener = start.listener("echo")?;
///             Ok(async move {
///                 while let Ok((mut stream, _peer)) = echo.accept().await {
///                     tokio::spawn(async move {
///                         let (mut read, mut write) = stream.split();
///                         tokio::io::copy(&mut read, &mut write).await
///                     });
///                 }
///             })
///         })
/// }
/// ```
///
/// An environment variable, where set, wins over what is said here; the [crate documentation](crate) lists them.
#[derive(Debug)]
#[must_use = "a service does nothing until it is run"]
pub struct Service {
    listeners: Vec<(String, Declared)>,
    pidfile: Option<PathBuf>,
    upgrade_timeout: Result<Duration, String>,
    probation: Result<Duration, String>,
    drain_timeout: Result<Duration, String>,
    upgrade_signal: String,
    #[cfg(feature = "tokio")]
    flavor: Flavor,
    #[cfg(feature = "tokio")]
    worker_threads: Option<usize>,
}

/// An address, or a text that is none and what is wrong with it: that is said when the service starts.
type Declared = Result<Address, (String, ParseAddressError)>;

/// Which runtime of tokio an `async fn main` runs on.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flavor {
    /// `flavor = "multi_thread"`: a pool of threads, as many as the machine has cores or as `worker_threads` says.
    #[default]
    MultiThread,
    /// `flavor = "current_thread"`: the thread of `main` alone.
    CurrentThread,
}

impl Service {
    /// A service without listeners, with the defaults of every option.
    pub fn new() -> Self {
        Self {
            listeners: Vec::new(),
            pidfile: None,
            upgrade_timeout: Ok(Duration::from_secs(60)),
            probation: Ok(Duration::from_secs(3)),
            drain_timeout: Ok(Duration::from_secs(30)),
            upgrade_signal: "SIGHUP".to_owned(),
            #[cfg(feature = "tokio")]
            flavor: Flavor::default(),
            #[cfg(feature = "tokio")]
            worker_threads: None,
        }
    }

    /// Declares a listener: a name of letters, digits, `_` and `-`, and an [`Address`] or a text that is one.
    pub fn listen(mut self, name: impl Into<String>, address: impl IntoAddress) -> Self {
        self.listeners.push((name.into(), address.into_address()));
        self
    }

    /// The file that names the process that serves. A relative path is relative to the first working directory.
    pub fn pidfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.pidfile = Some(path.into());
        self
    }

    /// How long a successor may take to become ready. Default: 60 s.
    pub fn upgrade_timeout(mut self, timeout: impl IntoDuration) -> Self {
        self.upgrade_timeout = timeout.into_duration();
        self
    }

    /// How long a successor that serves is watched; if it dies meanwhile, this process serves again. Default: 3 s.
    pub fn probation(mut self, probation: impl IntoDuration) -> Self {
        self.probation = probation.into_duration();
        self
    }

    /// How long open connections may take to finish once this process is replaced or stopped. Default: 30 s.
    pub fn drain_timeout(mut self, timeout: impl IntoDuration) -> Self {
        self.drain_timeout = timeout.into_duration();
        self
    }

    /// The signal that starts an upgrade: `SIGHUP`, `SIGUSR1`, `SIGUSR2`, `SIGQUIT` or `SIGWINCH`. Default: `SIGHUP`.
    pub fn upgrade_signal(mut self, name: impl Into<String>) -> Self {
        self.upgrade_signal = name.into();
        self
    }

    /// The runtime of tokio. Default: multi-thread.
    #[cfg(feature = "tokio")]
    pub fn flavor(mut self, flavor: Flavor) -> Self {
        self.flavor = flavor;
        self
    }

    /// The threads of a multi-thread runtime. Default: one for each core.
    #[cfg(feature = "tokio")]
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.worker_threads = Some(threads);
        self
    }

    /// Runs the service on tokio until it is replaced or stopped.
    ///
    /// `prepare` takes the parameters of the body and returns the body. A start that fails says why on stderr, and
    /// to the predecessor if there is one, which serves on.
    ///
    /// The exit code is that of the body. It is success when the process was replaced or stopped and its body, which
    /// waits for connections for ever, was dropped; failure (1) when the start failed; 101 when the body panicked.
    #[cfg(feature = "tokio")]
    pub fn run<F, B>(mut self, prepare: F) -> ExitCode
    where
        F: FnOnce(&mut Start) -> Result<B, StartError>,
        B: Future<Output: Termination>,
    {
        use std::task::Poll;

        let (flavor, threads) = (self.flavor, self.worker_threads.take());
        let begin = self.begin(|start| {
            let mut builder = match flavor {
                Flavor::MultiThread => tokio::runtime::Builder::new_multi_thread(),
                Flavor::CurrentThread => tokio::runtime::Builder::new_current_thread(),
            };
            match threads {
                Some(0) => {
                    let problem = "expected at least 1".to_owned();
                    return Err(StartError::Option { option: "worker_threads", problem });
                }
                Some(threads) => _ = builder.worker_threads(threads),
                None => {}
            }
            let runtime =
                builder.enable_all().build().map_err(StartError::system("start the tokio runtime"))?;
            let body = {
                // The types of tokio register with the runtime that they are made in.
                let _entered = runtime.enter();
                prepare(start)?
            };
            Ok((runtime, body))
        });
        let (shared, (runtime, body)) = match begin {
            Ok(begun) => begun,
            Err(code) => return code,
        };
        let code = runtime.block_on(async {
            let mut verdict = std::pin::pin!(shared.verdict.wait());
            let mut body = Box::pin(body);
            let returned = std::future::poll_fn(|cx| {
                // A verdict ends the wait though the body never returns: dropping it is what ends it.
                if let Poll::Ready(verdict) = verdict.as_mut().poll(cx) {
                    return Poll::Ready(Err(*verdict));
                }
                match catch_unwind(AssertUnwindSafe(|| body.as_mut().poll(cx))) {
                    Ok(poll) => poll.map(|value| Ok(Ok(value))),
                    Err(panic) => Poll::Ready(Ok(Err(panic))),
                }
            })
            .await;
            // Its sockets are closed before the engine hears of it.
            drop(body);
            match returned {
                Ok(outcome) => {
                    let code = conclude(&shared, outcome);
                    shared.verdict.wait().await;
                    code
                }
                Err(verdict) => exit_code(verdict),
            }
        });
        // Not a plain drop, which would wait for blocking tasks that never end.
        runtime.shutdown_background();
        code
    }

    /// Runs the service on a thread of its own, without tokio, until it is replaced or stopped.
    ///
    /// As `run`, but `prepare` returns a closure, which may block. It cannot be dropped from outside:
    /// when the process ends, it ends with it.
    pub fn run_blocking<F, B, T>(self, prepare: F) -> ExitCode
    where
        F: FnOnce(&mut Start) -> Result<B, StartError>,
        B: FnOnce() -> T + Send + 'static,
        T: Termination,
    {
        let (shared, body) = match self.begin(prepare) {
            Ok(begun) => begun,
            Err(code) => return code,
        };
        let code = Arc::new(std::sync::Mutex::new(None));
        let thread = {
            let (shared, code) = (shared.clone(), code.clone());
            let body = move || {
                let outcome = catch_unwind(AssertUnwindSafe(body));
                // Kept before the engine hears of it, whose verdict is what `main` waits for.
                let mut code = code.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *code = Some(conclude(&shared, outcome));
            };
            // As much stack as the thread of `main` usually has.
            thread::Builder::new().name("main".to_owned()).stack_size(8 << 20).spawn(body)
        };
        if let Err(error) = thread {
            to_stderr(format_args!("cannot start: cannot start a thread: {error}"));
            shared.post(Note::BodyReturned { panic: None });
            return ExitCode::FAILURE;
        }
        let verdict = *shared.verdict.wait_blocking();
        let body_code = code.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        body_code.unwrap_or_else(|| exit_code(verdict))
    }

    /// Everything before the body: prepares, then starts the engine. On an error it has been said, here and to the
    /// predecessor.
    fn begin<P>(
        self,
        prepare: impl FnOnce(&mut Start) -> Result<P, StartError>,
    ) -> Result<(Arc<Shared>, P), ExitCode> {
        let mut channel = None;
        self.try_begin(&mut channel, prepare).map_err(|error| {
            if let Some(mut channel) = channel {
                // To a predecessor that is gone there is nobody to say it to.
                match channel.send(&Message::Failed { reason: error.to_string() }) {
                    Ok(()) | Err(_) => {}
                }
            }
            to_stderr(format_args!("cannot start: {error}"));
            ExitCode::FAILURE
        })
    }

    fn try_begin<P>(
        self,
        parent_channel: &mut Option<Channel>,
        prepare: impl FnOnce(&mut Start) -> Result<P, StartError>,
    ) -> Result<(Arc<Shared>, P), StartError> {
        // The order matters: the process has one thread until the signals are installed.
        let blocked = signals::block().map_err(StartError::system("block signals"))?;
        let (environment, handover) = Environment::take();
        let inherited = match handover {
            Some(value) => Some(take_offer(&value, parent_channel)?),
            None => None,
        };
        let executable = inherited.as_ref().and_then(|inherited| inherited.executable.clone());
        let launch =
            Launch::new(executable).map_err(StartError::system("find out how this process was started"))?;
        let settings = self.settle(environment, &launch)?;
        signals::install(settings.upgrade_signal, &blocked)
            .map_err(StartError::system("install the signal handlers"))?;

        let generation =
            inherited.as_ref().map_or(1, |inherited| inherited.speaker.generation.saturating_add(1));
        let shared = Shared::new(generation, inherited.is_some(), settings.timeouts.drain)
            .map_err(StartError::system("make an eventfd"))?;
        let shared = Arc::new(shared);
        signals::wake_through(shared.wake_fd()).map_err(StartError::system("duplicate an eventfd"))?;
        drop(blocked);

        let parent_pid = inherited.as_ref().map(|inherited| inherited.speaker.pid);
        let (sockets, files) =
            inherited.map(|inherited| (inherited.sockets, inherited.files)).unwrap_or_default();
        let Opened { held, adopted, left } = open_listeners(settings.listeners, sockets)?;
        let mut start = Start::new(shared.clone(), held, left, files);
        let prepared = prepare(&mut start).and_then(|prepared| start.check().map(|()| prepared));
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                sockets::forget(&start.held);
                return Err(error);
            }
        };
        if parent_pid.is_none() {
            shared.predecessor_gone.set(());
        }
        let parent = parent_pid
            .and_then(|pid| Some(Parent { channel: parent_channel.take()?, pid, adopted: adopted.clone() }));
        let Start { held, doors, manual_ready, .. } = start;
        let pidfile = settings.pidfile.map(|path| Pidfile::new(path, shared.pid));
        let engine = Engine::new(
            shared.clone(),
            settings.timeouts,
            launch,
            pidfile,
            held,
            doors,
            manual_ready,
            parent,
        );
        thread::Builder::new()
            .name("tableflip".to_owned())
            .spawn(move || engine.run())
            .map_err(StartError::system("start a thread"))?;
        Ok((shared, prepared))
    }

    /// The declared values, the environment applied, everything checked.
    fn settle(self, mut environment: Environment, launch: &Launch) -> Result<Settings, StartError> {
        let mut known = vec![environment::LISTEN.to_owned() + "<NAME>"];
        let mut variable = |name: &'static str| {
            let variable = format!("TABLEFLIP_{}", name.to_uppercase());
            known.push(variable.clone());
            variable
        };

        let mut duration = |option, declared: Result<Duration, String>| match environment
            .parse::<EnvironmentDuration>(
            &variable(option),
        )? {
            Some(EnvironmentDuration(duration)) => Ok(duration),
            None => declared.map_err(|problem| StartError::Option { option, problem }),
        };
        let timeouts = Timeouts {
            upgrade: duration("upgrade_timeout", self.upgrade_timeout)?,
            probation: duration("probation", self.probation)?,
            drain: duration("drain_timeout", self.drain_timeout)?,
        };

        let upgrade_signal = match environment.parse::<UpgradeSignal>(&variable("upgrade_signal"))? {
            Some(signal) => signal,
            None => self
                .upgrade_signal
                .parse()
                .map_err(|problem| StartError::Option { option: "upgrade_signal", problem })?,
        };

        let pidfile = environment.take_one(&variable("pidfile")).map(PathBuf::from).or(self.pidfile);
        let pidfile = match pidfile {
            Some(path) if path.file_name().is_none() => {
                let problem = format!("{path:?} does not name a file");
                return Err(StartError::Option { option: "pidfile", problem });
            }
            Some(path) => Some(launch.directory().join(path)),
            None => None,
        };

        let mut listeners: Vec<(String, Address)> = Vec::new();
        for (name, declared) in self.listeners {
            check_name(&name)?;
            let fail = |problem| StartError::Listener { listener: name.clone(), problem };
            let variable = listen_variable(&name);
            if let Some((other, _)) = listeners.iter().find(|(other, _)| listen_variable(other) == variable) {
                return Err(fail(if *other == name {
                    "it is declared twice".to_owned()
                } else {
                    format!("its name and `{other}` are one in the environment, {variable}")
                }));
            }
            let address = match environment.parse::<Address>(&variable)? {
                Some(address) => address,
                None => declared.map_err(|(text, source)| StartError::Address {
                    listener: name.clone(),
                    text,
                    source,
                })?,
            };
            if let Some((other, _)) = listeners.iter().find(|(_, other)| sockets::collide(other, &address)) {
                return Err(fail(format!("it has the address of `{other}`, {}", address.identity())));
            }
            listeners.push((name, address));
        }
        environment.finish(&known)?;
        Ok(Settings { listeners, pidfile, timeouts, upgrade_signal: upgrade_signal.0 })
    }
}

impl Default for Service {
    fn default() -> Self {
        Self::new()
    }
}

/// A [`Service`] with the environment applied.
struct Settings {
    listeners: Vec<(String, Address)>,
    pidfile: Option<PathBuf>,
    timeouts: Timeouts,
    upgrade_signal: Signal,
}

fn listen_variable(name: &str) -> String {
    environment::LISTEN.to_owned() + &name.to_uppercase().replace('-', "_")
}

pub(crate) fn check_name(name: &str) -> Result<(), StartError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(valid) {
        return Ok(());
    }
    let problem = format!("a name has 1 to {MAX_NAME} letters, digits, `_` and `-`");
    Err(StartError::Listener { listener: printable(name), problem })
}

/// What a predecessor has offered.
struct Offered {
    speaker: Speaker,
    executable: Option<PathBuf>,
    sockets: Vec<(Entry, OwnedFd)>,
    files: Vec<(String, OwnedFd)>,
}

/// Takes the channel that the variable names, and the offer from it. `channel` is set as soon as there is one, so
/// that a failure can be told to the predecessor.
fn take_offer(value: &std::ffi::OsStr, channel: &mut Option<Channel>) -> Result<Offered, StartError> {
    let stray = |problem: &str| StartError::Environment {
        variable: HANDOVER.to_owned(),
        problem: format!(
            "{value:?}: {problem}; it is set by a process for its successor, unset it to start the service"
        ),
    };
    let number = value
        .to_str()
        .and_then(|text| text.parse::<u16>().ok())
        .ok_or_else(|| stray("not the number of a descriptor"))?;
    let fd = sockets::inherit(number.into()).map_err(|_| stray("no such descriptor"))?;
    let seqpacket = getsockopt(&fd, sockopt::SockType) == Ok(SockType::SeqPacket);
    let unix = getsockname::<SockaddrStorage>(fd.as_raw_fd())
        .is_ok_and(|name| name.family() == Some(AddressFamily::Unix));
    if !seqpacket || !unix {
        return Err(stray("the descriptor is not a handover channel"));
    }

    let channel = channel.insert(Channel::new(fd));
    let deadline = Instant::now() + OFFER_TIMEOUT;
    let broken = |error: crate::handover::channel::ChannelError| StartError::Handover(error.to_string());
    let (speaker, executable, socket_count, file_count) =
        match channel.receive_by(deadline).map_err(broken)? {
            Received::Message(Message::Offer { speaker, sockets, files, executable }, _) => {
                (speaker, executable, sockets, files)
            }
            Received::Nothing => return Err(stray("nobody offers anything on it")),
            Received::End => return Err(stray("its other end is closed")),
            Received::Message(..) | Received::Unknown(_) => {
                return Err(StartError::Handover("it did not begin with an offer".to_owned()));
            }
        };
    // Said before the verdict on the other's version, so that both sides can name it.
    channel
        .send(&Message::Hello { speaker: Speaker::us(speaker.generation.saturating_add(1)) })
        .map_err(|error| StartError::Handover(error.to_string()))?;
    speaker.understands_us().map_err(StartError::Handover)?;
    let count = socket_count.saturating_add(file_count);
    if count > MAX_SOCKETS {
        let problem = format!("it offers {count} descriptors; at most {MAX_SOCKETS} are taken");
        return Err(StartError::Handover(problem));
    }
    let (mut sockets, mut files) = (Vec::new(), Vec::new());
    while sockets.len() < socket_count || files.len() < file_count {
        match channel.receive_by(deadline).map_err(broken)? {
            Received::Message(Message::Sockets { entries }, fds) => {
                sockets.extend(entries.into_iter().zip(fds));
            }
            Received::Message(Message::Files { names }, fds) => files.extend(names.into_iter().zip(fds)),
            // The predecessor was killed in the middle of its offer. What it did not get to send died with it.
            Received::End => break,
            Received::Nothing => {
                let got = sockets.len() + files.len();
                let problem = format!("it offered {count} descriptors and sent {got}");
                return Err(StartError::Handover(problem));
            }
            Received::Message(..) | Received::Unknown(_) => {}
        }
    }
    Ok(Offered { speaker, executable: executable.map(PathBuf::from), sockets, files })
}

/// What came of the declared listeners.
struct Opened {
    held: Vec<Held>,
    /// Which of the offered sockets were adopted.
    adopted: Vec<usize>,
    /// Those that were not, with their places in the offer.
    left: Vec<(usize, Entry, OwnedFd)>,
}

/// Adopts what matches, by name and identity, and binds what is new.
fn open_listeners(
    declared: Vec<(String, Address)>,
    offered: Vec<(Entry, OwnedFd)>,
) -> Result<Opened, StartError> {
    let mut left: Vec<_> = offered.into_iter().enumerate().map(|(at, (entry, fd))| (at, entry, fd)).collect();
    let (mut held, mut adopted) = (Vec::new(), Vec::new());
    let result = declared.iter().try_for_each(|(name, address)| {
        held.push(match sockets::take_offered(&mut left, name, address) {
            Some((at, entry, fd)) => {
                adopted.push(at);
                sockets::adopt(address, entry, fd)?
            }
            None => sockets::bind(name, address)?,
        });
        Ok(())
    });
    match result {
        Ok(()) => Ok(Opened { held, adopted, left }),
        Err(error) => {
            sockets::forget(&held);
            Err(error)
        }
    }
}

/// Tells the engine how the body ended; returns its exit code.
fn conclude<T: Termination>(shared: &Shared, outcome: thread::Result<T>) -> ExitCode {
    match outcome {
        Ok(value) => {
            let code = value.report();
            shared.post(Note::BodyReturned { panic: None });
            code
        }
        Err(panic) => {
            let message = panic
                .downcast_ref::<&str>()
                .map(|message| (*message).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            shared.post(Note::BodyReturned { panic: Some(message) });
            // What std exits with after a panic of `main`.
            ExitCode::from(101)
        }
    }
}

fn exit_code(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Success => ExitCode::SUCCESS,
        Verdict::Failure => ExitCode::FAILURE,
    }
}

/// What [`Service::listen`] takes for an address: an [`Address`], or a text that is checked at the start.
pub trait IntoAddress {
    #[doc(hidden)]
    fn into_address(self) -> Result<Address, (String, ParseAddressError)>;
}

impl IntoAddress for Address {
    fn into_address(self) -> Declared {
        Ok(self)
    }
}

impl IntoAddress for &str {
    fn into_address(self) -> Declared {
        self.parse().map_err(|error| (self.to_owned(), error))
    }
}

impl IntoAddress for String {
    fn into_address(self) -> Declared {
        self.as_str().into_address()
    }
}

/// What a duration is given as: a [`Duration`], or a text such as `"500ms"`, `"30s"` or `"2m"`.
pub trait IntoDuration {
    #[doc(hidden)]
    fn into_duration(self) -> Result<Duration, String>;
}

impl IntoDuration for Duration {
    fn into_duration(self) -> Result<Duration, String> {
        Ok(self)
    }
}

impl IntoDuration for &str {
    fn into_duration(self) -> Result<Duration, String> {
        humantime::parse_duration(self)
            .map_err(|error| format!("`{self}` is not a duration such as `500ms`, `30s` or `2m`: {error}"))
    }
}

struct EnvironmentDuration(Duration);

impl FromStr for EnvironmentDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = |error| format!("not a duration such as `500ms`, `30s` or `2m`: {error}");
        humantime::parse_duration(text).map(Self).map_err(expected)
    }
}

struct UpgradeSignal(Signal);

impl FromStr for UpgradeSignal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match signals::UPGRADE_SIGNALS.iter().find(|(name, _)| *name == text) {
            Some((_, signal)) => Ok(Self(*signal)),
            None => {
                let names: Vec<_> = signals::UPGRADE_SIGNALS.iter().map(|(name, _)| *name).collect();
                Err(format!("expected one of {}", names.join(", ")))
            }
        }
    }
}
