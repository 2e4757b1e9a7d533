//! What a body may ask for: the two traits, and the types of the harness.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::address::{Address, Kind};
use crate::drain::Shutdown;
use crate::error::{StartError, UpgradeError};
use crate::gate::Door;
use crate::shared::{Note, Reply, Shared, Upgraded};
use crate::sockets::Held;

/// A type that a declared listener can be taken as.
///
/// The types of `tableflip::net` are *managed*: they stop handing out connections when the service is replaced, and
/// count the streams that a drain waits for. `std::net::TcpListener`, `tokio::net::TcpListener`, their Unix twins and
/// `OwnedFd` are *raw*: the descriptor and nothing else. Another crate adds a type of its own by wrapping one of them.
#[diagnostic::on_unimplemented(
    message = "a listener cannot be taken as `{Self}`",
    label = "not a type for a listener",
    note = "managed: `tableflip::net::TcpListener`, `tableflip::net::UnixListener`",
    note = "raw: the listeners of `tokio::net`, `std::net` and `std::os::unix::net`, and `std::os::fd::OwnedFd`"
)]
pub trait FromListener: Sized {
    /// Whether its first use tells that the service is ready.
    const MANAGED: bool = false;
    /// The kinds of socket it is for.
    const KINDS: &'static [Kind];

    /// Makes one from the socket.
    ///
    /// # Errors
    ///
    /// What the system says, such as a runtime that cannot register the descriptor.
    fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self>;
}

/// A type of the harness that a body can take as a parameter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a listener nor a type of the harness",
    label = "not a type for a parameter",
    note = "a parameter that is named like a `listen` entry is that listener",
    note = "any other is one of `tableflip::{{Shutdown, Ready, Upgrader}}`"
)]
pub trait FromHarness: Sized {
    /// Whether taking it means that the body says itself when it is ready.
    const READY: bool = false;

    /// Makes one.
    fn from_harness(start: &mut Start) -> Self;
}

/// What a body is prepared with, given to the closure that [`Service`](crate::Service) runs.
pub struct Start {
    pub(crate) shared: Arc<Shared>,
    pub(crate) held: Vec<Held>,
    taken: Vec<String>,
    pub(crate) doors: Vec<Arc<dyn Door>>,
    pub(crate) manual_ready: bool,
}

impl Start {
    pub(crate) fn new(shared: Arc<Shared>, held: Vec<Held>) -> Self {
        Self { shared, held, taken: Vec::new(), doors: Vec::new(), manual_ready: false }
    }

    /// Takes the listener of this name.
    ///
    /// # Errors
    ///
    /// No listener of this name is declared, it has been taken, it is of a kind that `T` is not for, or the system
    /// refuses.
    pub fn listener<T: FromListener>(&mut self, name: &str) -> Result<T, StartError> {
        let fail = |problem: String| StartError::Listener { listener: name.to_owned(), problem };
        let Some(held) = self.held.iter().find(|held| held.name == name) else {
            return Err(fail("it is not declared".to_owned()));
        };
        if self.taken.iter().any(|taken| taken == name) {
            return Err(fail("it has been taken already".to_owned()));
        }
        if !T::KINDS.contains(&held.address.kind()) {
            let kinds: Vec<_> = T::KINDS.iter().map(|kind| format!("{kind}://")).collect();
            return Err(fail(format!("{} is taken as a type for {}", held.address, kinds.join(", "))));
        }
        self.taken.push(name.to_owned());
        let socket = ListenerSocket { held, shared: &self.shared, doors: &mut self.doors };
        T::from_listener(socket).map_err(|error| fail(format!("cannot prepare it: {error}")))
    }

    /// Takes a type of the harness.
    ///
    /// # Errors
    ///
    /// None today; the macro treats every parameter alike.
    pub fn harness<T: FromHarness>(&mut self) -> Result<T, StartError> {
        Ok(T::from_harness(self))
    }

    /// What must hold before the body may run.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        if let Some(held) = self.held.iter().find(|held| !self.taken.contains(&held.name)) {
            let problem = "it is declared, and the body does not take it".to_owned();
            return Err(StartError::Listener { listener: held.name.clone(), problem });
        }
        if !self.manual_ready && self.doors.is_empty() && !self.held.is_empty() {
            return Err(StartError::NotReady(
                "every listener is taken as a raw type, so nobody sees when the body serves; take a managed type, \
                 or `tableflip::Ready`"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("listeners", &self.held)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

/// A bound socket on its way into a [`FromListener`] type.
pub struct ListenerSocket<'a> {
    held: &'a Held,
    shared: &'a Arc<Shared>,
    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "only managed types have doors"))]
    doors: &'a mut Vec<Arc<dyn Door>>,
}

impl ListenerSocket<'_> {
    /// The name it was declared under.
    pub fn name(&self) -> &str {
        &self.held.name
    }

    /// The address it was declared with. Where port 0 was asked for, `getsockname` on the descriptor tells the real
    /// one.
    pub fn address(&self) -> &Address {
        &self.held.address
    }

    /// A descriptor of its own, close-on-exec and non-blocking. The open file description is shared with the
    /// predecessor and the successor: O_NONBLOCK must not be cleared, or theirs block as well.
    ///
    /// # Errors
    ///
    /// EMFILE.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        self.held.duplicate()
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.shared
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn register(self, door: Arc<dyn Door>) {
        self.doors.push(door);
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.held.duplicate()
    }
}

impl AsFd for ListenerSocket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.held.fd.as_fd()
    }
}

impl fmt::Debug for ListenerSocket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerSocket")
            .field("name", &self.held.name)
            .field("address", &self.held.address)
            .field("generation", &self.shared.generation)
            .finish_non_exhaustive()
    }
}

impl FromListener for OwnedFd {
    const KINDS: &'static [Kind] =
        &[Kind::Tcp, Kind::Udp, Kind::Unix, Kind::UnixDatagram, Kind::UnixSeqpacket];

    fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
        socket.into_fd()
    }
}

macro_rules! raw_std {
    ($($type:ty: $kind:ident;)*) => {$(
        impl FromListener for $type {
            const KINDS: &'static [Kind] = &[Kind::$kind];

            /// It is non-blocking; see [`ListenerSocket::into_fd`] for why it must stay so.
            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                Ok(socket.into_fd()?.into())
            }
        }
    )*};
}

raw_std! {
    std::net::TcpListener: Tcp;
    std::net::UdpSocket: Udp;
    std::os::unix::net::UnixListener: Unix;
    std::os::unix::net::UnixDatagram: UnixDatagram;
}

#[cfg(feature = "tokio")]
macro_rules! raw_tokio {
    ($($type:ty: $std:ty, $kind:ident;)*) => {$(
        impl FromListener for $type {
            const KINDS: &'static [Kind] = &[Kind::$kind];

            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                Self::from_std(<$std>::from(socket.into_fd()?))
            }
        }
    )*};
}

#[cfg(feature = "tokio")]
raw_tokio! {
    tokio::net::TcpListener: std::net::TcpListener, Tcp;
    tokio::net::UdpSocket: std::net::UdpSocket, Udp;
    tokio::net::UnixListener: std::os::unix::net::UnixListener, Unix;
    tokio::net::UnixDatagram: std::os::unix::net::UnixDatagram, UnixDatagram;
}

impl FromHarness for Shutdown {
    fn from_harness(start: &mut Start) -> Self {
        Shutdown::new(start.shared.clone())
    }
}

/// By taking it a body decides itself when it is ready.
///
/// Without it a service is ready once every managed listener has been asked for its first connection. Dropping it
/// without [`notify`](Self::notify) fails the start: the predecessor serves on.
#[derive(Debug)]
#[must_use = "dropping `Ready` without `notify` fails the start"]
pub struct Ready {
    shared: Option<Arc<Shared>>,
}

impl Ready {
    /// Says that the service is ready: a predecessor hands over, the pid file is written.
    pub fn notify(mut self) {
        if let Some(shared) = self.shared.take() {
            shared.post(Note::Ready);
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.post(Note::ReadyDropped);
        }
    }
}

impl FromHarness for Ready {
    const READY: bool = true;

    fn from_harness(start: &mut Start) -> Self {
        start.manual_ready = true;
        Ready { shared: Some(start.shared.clone()) }
    }
}

/// A handle to the life of this process: to upgrade it, to stop it, to ask about it.
#[derive(Clone, Debug)]
pub struct Upgrader {
    shared: Arc<Shared>,
}

impl Upgrader {
    /// Starts a successor and waits for the outcome: `Ok` once the successor serves and has passed its probation.
    /// This process drains then.
    ///
    /// # Errors
    ///
    /// Why it was refused, or why the successor failed; in both cases this process serves on.
    pub async fn upgrade(&self) -> Result<Upgraded, UpgradeError> {
        self.request().wait().await.clone()
    }

    /// The twin of [`upgrade`](Self::upgrade) for threads.
    ///
    /// # Errors
    ///
    /// As for `upgrade`.
    pub fn upgrade_blocking(&self) -> Result<Upgraded, UpgradeError> {
        self.request().wait_blocking().clone()
    }

    fn request(&self) -> Arc<Reply> {
        let reply = Arc::new(Reply::new());
        self.shared.post(Note::Upgrade(reply.clone()));
        reply
    }

    /// Stops the service gracefully, as SIGTERM does.
    pub fn stop(&self) {
        self.shared.post(Note::Stop);
    }

    /// 1 for the process that was started first; each successful upgrade adds 1.
    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// Whether this process was started by a predecessor.
    pub fn has_predecessor(&self) -> bool {
        self.shared.had_predecessor
    }

    /// Waits until the predecessor has exited; at once if there was none.
    pub async fn predecessor_gone(&self) {
        self.shared.predecessor_gone.wait().await;
    }

    /// The twin of [`predecessor_gone`](Self::predecessor_gone) for threads.
    pub fn predecessor_gone_blocking(&self) {
        self.shared.predecessor_gone.wait_blocking();
    }
}

impl FromHarness for Upgrader {
    fn from_harness(start: &mut Start) -> Self {
        Upgrader { shared: start.shared.clone() }
    }
}
