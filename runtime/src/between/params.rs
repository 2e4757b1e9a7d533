//! The parameters of a body: the two traits, [`Start`] which prepares them, and the raw types of a listener.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::base::address::{Address, Kind};
use crate::base::error::StartError;
use crate::base::report::tell;
use crate::base::unadopted::Unadopted;
use crate::between::drain::Shutdown;
use crate::between::gate_control::GateControl;
use crate::between::pool::{NOT_DECLARED, TAKEN};
use crate::between::shared::Shared;
use crate::config::convert::Seal;
use crate::outside::sockets::BoundSocket;
use crate::sys::fd::{self, BorrowedFd, OwnedFd};

/// A type that a declared listener can be taken as.
///
/// The types of `tableflip::net` and `tableflip::blocking` are *managed*. They stop handing out connections when the
/// service is replaced or stopped, and count the streams that a drain waits for.
///
/// `std::net::TcpListener`, `tokio::net::TcpListener`, their Unix twins and `OwnedFd` (on Windows `OwnedSocket`) are
/// *raw*: the descriptor and nothing else. Another crate adds a type by wrapping one of these.
///
/// Prefer a managed type. Nothing keeps a body from taking connections from a raw listener:
///
/// * In an upgrade the predecessor and the successor *both* take from it, from the start of the successor until the
///   predecessor's body stops by itself on [`Shutdown`]. So both releases serve through the whole probation.
/// * A library that stops on `Shutdown` may drop a connection that it has accepted at that very moment. Its client
///   sees the connection close.
///
/// The log says once which listener is raw, at the level `INFO`.
#[diagnostic::on_unimplemented(
    message = "a listener cannot be taken as `{Self}`",
    label = "not a type for a listener",
    note = "managed: `TcpListener`, `UnixListener`, `UdpSocket` and `UnixDatagram` of `tableflip::net` and `tableflip::blocking`",
    note = "raw: the types of `tokio::net`, `std::net` and `std::os::unix::net`, and `std::os::fd::OwnedFd`",
    note = "a handle keeps its name: with `use tableflip::Shutdown as Stop` the attribute does not know it"
)]
pub trait FromListener: Sized {
    /// Whether the first accept or receive shows that the service is ready.
    const MANAGED: bool = false;
    /// The kinds of socket that this type can be.
    const KINDS: &'static [Kind];
    /// The body that this type is for. The attribute refuses the type in the other body.
    const BODY: BodyKind = BodyKind::Any;

    /// Makes the value from the socket.
    ///
    /// # Errors
    ///
    /// The error of the system. For example, the runtime cannot register the descriptor.
    fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self>;

    /// The value for a listener that is declared without an address. Only an `Option` has one.
    #[doc(hidden)]
    fn unopened() -> Option<Self> {
        None
    }
}

/// The kind of body that a listener type is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyKind {
    /// An `async fn` and a plain `fn`.
    Any,
    /// An `async fn`: the type registers with the runtime of tokio.
    Async,
    /// A plain `fn`: the type blocks the thread that calls it.
    Blocking,
}

/// A handle that a body can take as a parameter. The crate has all of them: no other crate can implement this trait.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a listener nor a handle",
    label = "not a type for a parameter",
    note = "a parameter that is named like a `listen` entry is that listener",
    note = "any other is one of `tableflip::{{Shutdown, Ready, Upgrader, Listeners, Inherited}}`"
)]
pub trait FromHandle: Sized {
    /// Whether a body that takes this handle reports its readiness itself.
    const READY: bool = false;

    /// Makes the handle.
    #[doc(hidden)]
    fn from_handle(start: &mut Start, seal: Seal) -> Self;
}

/// The value of a listener that is declared without an address.
pub(crate) fn unopened<T: FromListener>(name: &str) -> Result<T, StartError> {
    let problem = "its address is `None`, so the body has to take it as an `Option`".to_owned();
    T::unopened().ok_or_else(|| StartError::Listener { listener: name.to_owned(), problem })
}

/// Makes the parameters of a body. [`Service`](crate::Service) gives it to the closure that prepares the body.
pub struct Start {
    pub(crate) shared: Arc<Shared>,
    /// The declared listeners.
    pub(crate) sockets: Vec<BoundSocket>,
    /// The names of the listeners that are declared without an address.
    pub(crate) unopened: Vec<String>,
    /// The names of the listeners that the body has taken.
    pub(crate) taken: Vec<String>,
    pub(crate) gates: Vec<Arc<dyn GateControl>>,
    pub(crate) manual_ready: bool,
    /// The sockets that came with this process and that no declared listener has adopted.
    pub(crate) unadopted: VecDeque<Unadopted>,
    /// The descriptors that the predecessor has passed on by name.
    pub(crate) files: Vec<(String, OwnedFd)>,
}

impl Start {
    pub(crate) fn new(
        shared: Arc<Shared>,
        sockets: Vec<BoundSocket>,
        unopened: Vec<String>,
        unadopted: VecDeque<Unadopted>,
        files: Vec<(String, OwnedFd)>,
    ) -> Self {
        Self {
            shared,
            sockets,
            unopened,
            taken: Vec::new(),
            gates: Vec::new(),
            manual_ready: false,
            unadopted,
            files,
        }
    }

    /// Takes the listener of this name.
    ///
    /// # Errors
    ///
    /// No listener of this name is declared, or the body has taken it already. `T` is not for this kind of socket. Or the
    /// system refuses.
    pub fn listener<T: FromListener>(&mut self, name: &str) -> Result<T, StartError> {
        let fail =
            |problem: &str| StartError::Listener { listener: name.to_owned(), problem: problem.to_owned() };
        let Some(socket) = self.sockets.iter().find(|socket| socket.name == name) else {
            return match self.unopened.iter().any(|unopened| unopened == name) {
                true => unopened(name),
                false => Err(fail(NOT_DECLARED)),
            };
        };
        if self.taken.iter().any(|taken| taken == name) {
            return Err(fail(TAKEN));
        }
        if let Some(pool) = self.shared.pool().as_mut() {
            let at = pool.untaken(name)?;
            pool.declared.remove(at);
        }
        self.taken.push(name.to_owned());
        make(socket, &self.shared, &mut self.gates)
    }

    /// Takes a handle.
    ///
    /// # Errors
    ///
    /// None today. The `Result` lets the attribute treat every parameter alike.
    pub fn handle<T: FromHandle>(&mut self) -> Result<T, StartError> {
        Ok(T::from_handle(self, Seal(())))
    }

    /// Checks what must be true before the body may run. `probe` is the listener that the option `probe` is for.
    pub(crate) fn check(&self, probe: Option<&str>) -> Result<(), StartError> {
        if let Some(name) = probe {
            self.check_probe(name)?;
        }
        // A body with `Listeners` may take the other listeners until it is ready.
        if self.shared.pool().is_some() {
            return Ok(());
        }
        if let Some(socket) = self.sockets.iter().find(|socket| !self.taken.contains(&socket.name)) {
            return Err(StartError::not_taken(&socket.name));
        }
        if !self.manual_ready && self.gates.is_empty() && !self.sockets.is_empty() {
            return Err(StartError::NotReady(
                "every listener is taken as a raw type, so nobody sees when the body serves; take a managed type, \
                 or `tableflip::Ready`"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

impl Start {
    /// A probe reaches the body through the gate of its listener.
    fn check_probe(&self, name: &str) -> Result<(), StartError> {
        let is_taken = self.taken.iter().any(|taken| taken == name);
        if !is_taken || self.gates.iter().any(|gate| gate.name() == name) {
            return Ok(());
        }
        let problem = format!(
            "listener `{name}` is taken as a raw type, which no probe reaches; take it as a managed type, or name \
             another listener, as in `http GET /healthz`"
        );
        Err(StartError::Option { option: "probe", problem })
    }
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("listeners", &self.sockets)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

/// Makes a value of the body's type from a socket.
pub(crate) fn make<T: FromListener>(
    socket: &BoundSocket,
    shared: &Arc<Shared>,
    gates: &mut Vec<Arc<dyn GateControl>>,
) -> Result<T, StartError> {
    check_kind::<T>(&socket.name, &socket.address)?;
    let fail = |problem: String| StartError::Listener { listener: socket.name.clone(), problem };
    if T::BODY == BodyKind::Async && !is_on_tokio() {
        return Err(fail(NO_RUNTIME.to_owned()));
    }
    let count = gates.len();
    let made = T::from_listener(ListenerSocket { socket, shared, gates })
        .map_err(|error| fail(format!("cannot prepare it: {error}")))?;
    // A type of another crate is what it wraps: a managed type has registered its gate.
    if cfg!(upgrades) && gates.len() == count && shared.is_first_raw_type() {
        tell!(
            shared,
            INFO,
            "listener `{}` is taken as a raw type: in an upgrade both processes take from it until the probation is \
             over; a managed type, of `tableflip::net` or `tableflip::blocking`, serves in one process at a time",
            socket.name
        );
    }
    Ok(made)
}

/// A type of tokio panics where there is no runtime.
const NO_RUNTIME: &str = "its type needs the runtime of tokio, and there is none here; start the service with `run`, \
                          or take a type of `tableflip::blocking`";

fn is_on_tokio() -> bool {
    #[cfg(feature = "tokio")]
    return tokio::runtime::Handle::try_current().is_ok();
    // The type of another crate may have a runtime of its own.
    #[cfg(not(feature = "tokio"))]
    return true;
}

pub(crate) fn check_kind<T: FromListener>(name: &str, address: &Address) -> Result<(), StartError> {
    if T::KINDS.contains(&address.kind()) {
        return Ok(());
    }
    let kinds: Vec<_> = T::KINDS.iter().map(|kind| format!("{kind}://")).collect();
    let problem = format!("{address} is taken as a type for {}", kinds.join(", "));
    Err(StartError::Listener { listener: name.to_owned(), problem })
}

/// A bound socket from which a [`FromListener`] type is made.
///
/// The predecessor and the successor share its open file description. Do not clear O_NONBLOCK: their sockets would block
/// as well.
pub struct ListenerSocket<'a> {
    socket: &'a BoundSocket,
    shared: &'a Arc<Shared>,
    gates: &'a mut Vec<Arc<dyn GateControl>>,
}

impl ListenerSocket<'_> {
    /// The declared name.
    pub fn name(&self) -> &str {
        &self.socket.name
    }

    /// The declared address. For port 0, getsockname(2) on the descriptor returns the port that the kernel has chosen.
    pub fn address(&self) -> &Address {
        &self.socket.address
    }

    /// Returns a new descriptor of the socket, close-on-exec and non-blocking.
    ///
    /// # Errors
    ///
    /// EMFILE.
    #[cfg(unix)]
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        self.socket.duplicate()
    }

    /// Returns a new handle of the socket, not inheritable and non-blocking.
    ///
    /// # Errors
    ///
    /// WSAEMFILE.
    #[cfg(windows)]
    pub fn into_socket(self) -> io::Result<OwnedFd> {
        self.socket.duplicate()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.shared
    }

    pub(crate) fn register(self, gate: Arc<dyn GateControl>) {
        self.gates.push(gate);
    }

    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket.duplicate()
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for ListenerSocket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        fd::borrow(&self.socket.fd)
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for ListenerSocket<'_> {
    fn as_socket(&self) -> BorrowedFd<'_> {
        fd::borrow(&self.socket.fd)
    }
}

impl fmt::Debug for ListenerSocket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerSocket")
            .field("name", &self.socket.name)
            .field("address", &self.socket.address)
            .field("generation", &self.shared.generation)
            .finish_non_exhaustive()
    }
}

/// A listener that the configuration may leave out: `None` if its address is `None`.
impl<T: FromListener> FromListener for Option<T> {
    const MANAGED: bool = T::MANAGED;
    const BODY: BodyKind = T::BODY;
    const KINDS: &'static [Kind] = T::KINDS;

    fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
        T::from_listener(socket).map(Some)
    }

    fn unopened() -> Option<Self> {
        Some(None)
    }
}

impl FromListener for OwnedFd {
    const KINDS: &'static [Kind] =
        &[Kind::Tcp, Kind::Udp, Kind::Unix, Kind::UnixDatagram, Kind::UnixSeqpacket];

    fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
        socket.duplicate()
    }
}

macro_rules! raw_std {
    ($($type:ty: $kind:ident;)*) => {$(
        impl FromListener for $type {
            const KINDS: &'static [Kind] = &[Kind::$kind];

            /// The socket is non-blocking and must stay so: see [`ListenerSocket`].
            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                Ok(socket.duplicate()?.into())
            }
        }
    )*};
}

raw_std! {
    std::net::TcpListener: Tcp;
    std::net::UdpSocket: Udp;
}

#[cfg(unix)]
raw_std! {
    std::os::unix::net::UnixListener: Unix;
    std::os::unix::net::UnixDatagram: UnixDatagram;
}

#[cfg(feature = "tokio")]
macro_rules! raw_tokio {
    ($($type:ty: $std:ty, $kind:ident;)*) => {$(
        impl FromListener for $type {
            const KINDS: &'static [Kind] = &[Kind::$kind];
            const BODY: BodyKind = BodyKind::Async;

            fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
                Self::from_std(<$std>::from(socket.duplicate()?))
            }
        }
    )*};
}

#[cfg(feature = "tokio")]
raw_tokio! {
    tokio::net::TcpListener: std::net::TcpListener, Tcp;
    tokio::net::UdpSocket: std::net::UdpSocket, Udp;
}

#[cfg(all(feature = "tokio", unix))]
raw_tokio! {
    tokio::net::UnixListener: std::os::unix::net::UnixListener, Unix;
    tokio::net::UnixDatagram: std::os::unix::net::UnixDatagram, UnixDatagram;
}

impl FromHandle for Shutdown {
    fn from_handle(start: &mut Start, _: Seal) -> Self {
        Shutdown::given(start.shared.clone())
    }
}
