//! What a body may ask for: the two traits, and the types of the harness.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::base::address::{Address, Kind};
use crate::base::error::{StartError, UpgradeError};
use crate::base::limits::{MAX_LISTENERS, check_name, collide, too_many_listeners};
use crate::base::status::Status;
use crate::base::sync::Latch;
use crate::base::unadopted;
use crate::base::unadopted::{Entry, Unadopted};
use crate::between::drain::Shutdown;
use crate::between::gate_control::GateControl;
use crate::between::shared::{Note, Pool, Reply, Shared, Upgraded};
use crate::config::convert::IntoAddress;
use crate::outside::sockets::{self, BoundSocket};
use crate::sys::fd::{self, BorrowedFd, OwnedFd};

/// A type that a declared listener can be taken as.
///
/// The types of `tableflip::net` and `tableflip::blocking` are *managed*: they stop handing out connections when the service is replaced, and
/// count the streams that a drain waits for. `std::net::TcpListener`, `tokio::net::TcpListener`, their Unix twins and
/// `OwnedFd` (on Windows `OwnedSocket`) are *raw*: the descriptor and nothing else. Another crate adds a type of its own by wrapping one of them.
#[diagnostic::on_unimplemented(
    message = "a listener cannot be taken as `{Self}`",
    label = "not a type for a listener",
    note = "managed: `TcpListener`, `UnixListener`, `UdpSocket` and `UnixDatagram` of `tableflip::net` and `tableflip::blocking`",
    note = "raw: the types of `tokio::net`, `std::net` and `std::os::unix::net`, and `std::os::fd::OwnedFd`"
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
    note = "any other is one of `tableflip::{{Shutdown, Ready, Upgrader, Listeners, Inherited}}`"
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
    pub(crate) held: Vec<BoundSocket>,
    taken: Vec<String>,
    pub(crate) gates: Vec<Arc<dyn GateControl>>,
    pub(crate) manual_ready: bool,
    /// What came with this process and is not declared.
    pub(crate) unadopted: VecDeque<Unadopted>,
    files: Vec<(String, OwnedFd)>,
}

impl Start {
    pub(crate) fn new(
        shared: Arc<Shared>,
        held: Vec<BoundSocket>,
        unadopted: VecDeque<Unadopted>,
        files: Vec<(String, OwnedFd)>,
    ) -> Self {
        Self { shared, held, taken: Vec::new(), gates: Vec::new(), manual_ready: false, unadopted, files }
    }

    /// Takes the listener of this name.
    ///
    /// # Errors
    ///
    /// No listener of this name is declared, it has been taken, it is of a kind that `T` is not for, or the system
    /// refuses.
    pub fn listener<T: FromListener>(&mut self, name: &str) -> Result<T, StartError> {
        let fail =
            |problem: &str| StartError::Listener { listener: name.to_owned(), problem: problem.to_owned() };
        let Some(held) = self.held.iter().find(|held| held.name == name) else {
            return Err(fail(NOT_DECLARED));
        };
        if self.taken.iter().any(|taken| taken == name) {
            return Err(fail(TAKEN));
        }
        if let Some(pool) = self.shared.pool().as_mut() {
            let at = untaken(pool, name)?;
            pool.declared.remove(at);
        }
        self.taken.push(name.to_owned());
        make(held, &self.shared, &mut self.gates)
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
        // A body that has `Listeners` takes what is left later, until it is ready.
        if self.shared.pool().is_some() {
            return Ok(());
        }
        if let Some(held) = self.held.iter().find(|held| !self.taken.contains(&held.name)) {
            return Err(StartError::not_taken(&held.name));
        }
        if !self.manual_ready && self.gates.is_empty() && !self.held.is_empty() {
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

const NOT_DECLARED: &str = "it is not declared";
const TAKEN: &str = "it has been taken already";

/// Makes of a socket what the body takes it as.
pub(crate) fn make<T: FromListener>(
    held: &BoundSocket,
    shared: &Arc<Shared>,
    gates: &mut Vec<Arc<dyn GateControl>>,
) -> Result<T, StartError> {
    check_kind::<T>(&held.name, &held.address)?;
    let fail = |problem: String| StartError::Listener { listener: held.name.clone(), problem };
    let socket = ListenerSocket { held, shared, gates };
    T::from_listener(socket).map_err(|error| fail(format!("cannot prepare it: {error}")))
}

fn check_kind<T: FromListener>(name: &str, address: &Address) -> Result<(), StartError> {
    if T::KINDS.contains(&address.kind()) {
        return Ok(());
    }
    let kinds: Vec<_> = T::KINDS.iter().map(|kind| format!("{kind}://")).collect();
    let problem = format!("{address} is taken as a type for {}", kinds.join(", "));
    Err(StartError::Listener { listener: name.to_owned(), problem })
}

/// A bound socket on its way into a [`FromListener`] type.
///
/// Its open file description is shared with the predecessor and the successor: O_NONBLOCK must not be cleared, or
/// theirs block as well.
pub struct ListenerSocket<'a> {
    held: &'a BoundSocket,
    shared: &'a Arc<Shared>,
    gates: &'a mut Vec<Arc<dyn GateControl>>,
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

    /// A descriptor of its own, close-on-exec and non-blocking.
    ///
    /// # Errors
    ///
    /// EMFILE.
    #[cfg(unix)]
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        self.held.duplicate()
    }

    /// A socket of its own, not inheritable and non-blocking.
    ///
    /// # Errors
    ///
    /// WSAEMFILE.
    #[cfg(windows)]
    pub fn into_socket(self) -> io::Result<OwnedFd> {
        self.held.duplicate()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.shared
    }

    pub(crate) fn register(self, gate: Arc<dyn GateControl>) {
        self.gates.push(gate);
    }

    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.held.duplicate()
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for ListenerSocket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        fd::borrow(&self.held.fd)
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for ListenerSocket<'_> {
    fn as_socket(&self) -> BorrowedFd<'_> {
        fd::borrow(&self.held.fd)
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
        socket.duplicate()
    }
}

macro_rules! raw_std {
    ($($type:ty: $kind:ident;)*) => {$(
        impl FromListener for $type {
            const KINDS: &'static [Kind] = &[Kind::$kind];

            /// It is non-blocking, and must stay so: see [`ListenerSocket`].
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

impl FromHarness for Shutdown {
    fn from_harness(start: &mut Start) -> Self {
        Shutdown::given(start.shared.clone())
    }
}

/// With `Ready` the body itself decides when the service is ready.
///
/// Without `Ready` a service is ready once the body has asked every managed listener for its first connection. Dropping
/// `Ready` without [`notify`](Self::notify) fails the start: the predecessor serves on.
#[derive(Debug)]
#[must_use = "dropping `Ready` without `notify` fails the start"]
pub struct Ready {
    shared: Option<Arc<Shared>>,
}

impl Ready {
    /// Reports that the service is ready. A predecessor then hands over, and the pid file is written.
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

/// A handle to this process: it upgrades the service, stops it, and reports its status.
#[derive(Clone, Debug)]
pub struct Upgrader {
    shared: Arc<Shared>,
}

impl Upgrader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Starts a successor and waits for the outcome: `Ok` once the successor serves and has passed its probation. This
    /// process then drains.
    ///
    /// # Errors
    ///
    /// Why the upgrade was refused, or why the successor failed. In both cases this process serves on. A service that has
    /// ended returns [`Terminating`](UpgradeError::Terminating). Platforms other than Linux always return
    /// [`Unsupported`](UpgradeError::Unsupported).
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

    /// Returns the status of this process, for an endpoint or the metrics of your own service. A service that has ended
    /// returns its last status.
    pub async fn status(&self) -> Status {
        self.ask_status().wait().await.clone()
    }

    /// The twin of [`status`](Self::status) for threads.
    pub fn status_blocking(&self) -> Status {
        self.ask_status().wait_blocking().clone()
    }

    fn ask_status(&self) -> Arc<Latch<Status>> {
        let status = Arc::new(Latch::new());
        self.shared.post(Note::Status(status.clone()));
        status
    }

    /// Passes a descriptor on to every successor from now on, under a name: a connection, a file, a lock. The successor
    /// finds it in [`Inherited`]. A descriptor passed on later under the same name replaces the earlier one.
    ///
    /// If two processes read a connection, its data is garbled: stop reading it before the upgrade. This process keeps
    /// its own copy of the descriptor until it exits, because it may have to start another successor. A peer sees the
    /// connection closed only after that, when no process has the descriptor any more.
    ///
    /// A name has at most 4,096 bytes. With a longer name every upgrade is refused.
    pub fn pass_on(&self, name: impl Into<String>, fd: impl Into<OwnedFd>) {
        self.shared.passed_on().insert(name.into(), Arc::new(fd.into()));
    }

    /// 1 for the process that was started first; each successful upgrade adds 1.
    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// Whether a predecessor started this process.
    pub fn has_predecessor(&self) -> bool {
        self.shared.had_predecessor
    }

    /// Waits until the predecessor has exited. The code after [`Service::run`](crate::Service::run) in its `main` has
    /// ended by then. A lock or another resource that the predecessor kept until its end is then free. Without a
    /// predecessor this returns at once.
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
        Upgrader::new(start.shared.clone())
    }
}

/// The descriptors that the predecessor has passed on by name, with [`Upgrader::pass_on`].
///
/// Dropping this value closes every descriptor that the body has not taken. Nothing is passed on again by itself: the
/// next successor gets only what this process passes on.
#[derive(Debug)]
pub struct Inherited {
    files: Vec<(String, OwnedFd)>,
}

impl Inherited {
    /// Takes the descriptor of this name, close-on-exec. Returns `None` if there is none, or if it has been taken.
    ///
    /// Only the program knows what kind of descriptor it is: convert it to the type that was passed on.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.files.iter().position(|(known, _)| known == name)?;
        Some(self.files.remove(at).1)
    }

    /// The descriptors that have not been taken, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.files.iter().map(|(name, fd)| (name.as_str(), fd::borrow(fd)))
    }
}

impl FromHarness for Inherited {
    fn from_harness(start: &mut Start) -> Self {
        Inherited { files: std::mem::take(&mut start.files) }
    }
}

/// Takes declared listeners at run time, and binds others. Their number or their addresses may come from a configuration.
///
/// The body can take and bind listeners until the service is ready. Without a [`Ready`] the service needs at least one
/// managed listener. It is ready once the body has asked every managed listener for its first connection. So take and
/// bind all listeners before serving the first. A declared listener that the body has not taken when the service would be
/// ready fails the start. A socket that the predecessor has offered and that the body has not bound again by then is
/// closed.
#[derive(Clone, Debug)]
pub struct Listeners {
    shared: Arc<Shared>,
}

impl Listeners {
    /// Takes the declared listener of this name, if it is not a parameter of the body.
    ///
    /// # Errors
    ///
    /// No listener of this name is declared, the listener has been taken, `T` is not for this kind of socket, or the
    /// service is ready.
    pub fn declared<T: FromListener>(&self, name: &str) -> Result<T, StartError> {
        // The lock is not held meanwhile: what makes a `T` is anybody's code.
        let held = {
            let pool = self.shared.pool();
            let pool = pool.as_ref().ok_or_else(|| too_late(name))?;
            pool.declared[untaken(pool, name)?].clone()
        };
        let mut gates = Vec::new();
        let made = make(&held, &self.shared, &mut gates)?;
        // As in `enter`: the engine sees that it is taken or, once ready, that it is not.
        let mut pool = self.shared.pool();
        let pool = pool.as_mut().ok_or_else(|| too_late(name))?;
        let at = untaken(pool, name)?;
        drop(pool.declared.remove(at));
        self.shared.post(Note::Listener { held: None, gates, adopted: None });
        Ok(made)
    }

    /// Inherits the listener of this name and address from the predecessor, or binds it. If a listener is declared with
    /// this name and address and has not been taken, this takes the declared listener.
    ///
    /// # Errors
    ///
    /// The address does not parse, or cannot be bound. The name or the address is in use in this process. `T` is not for
    /// this kind of socket. The service is ready, or has 10,000 listeners.
    pub fn bind<T: FromListener>(&self, name: &str, address: impl IntoAddress) -> Result<T, StartError> {
        self.obtain(name, address, |address| sockets::bind(name, address))
    }

    /// Like [`bind`](Self::bind), with a function that makes the socket if it is not inherited. This is for options that
    /// an [`Address`] does not have. The socket must be bound to the address. If its kind accepts connections, it must
    /// also listen.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind), and the error of the function.
    pub fn bind_with<T, S>(
        &self,
        name: &str,
        address: impl IntoAddress,
        make_socket: impl FnOnce(&Address) -> io::Result<S>,
    ) -> Result<T, StartError>
    where
        T: FromListener,
        S: Into<OwnedFd>,
    {
        self.obtain(name, address, |address| {
            let socket = make_socket(address).map_err(|source| StartError::Bind {
                listener: name.to_owned(),
                address: Box::new(address.clone()),
                action: "make a socket for",
                source,
            })?;
            sockets::receive(name, address, socket.into())
        })
    }

    /// Inherits the listener of this name and address. Returns `None` if the predecessor does not have it. If a listener
    /// is declared with this name and address and has not been taken, this takes the declared listener, inherited or not.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    pub fn take<T: FromListener>(
        &self,
        name: &str,
        address: impl IntoAddress,
    ) -> Result<Option<T>, StartError> {
        let address = self.parse(name, address)?;
        if self.is_declared(name, &address) {
            return self.declared(name).map(Some);
        }
        self.enter(name, &address, |offered| {
            offered.map(|(entry, fd)| sockets::adopt(&address, entry, fd)).transpose()
        })
    }

    /// Adds a socket that was made elsewhere, so that successors inherit it.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind). Also if the socket does not fit the address.
    pub fn add(
        &self,
        name: &str,
        address: impl IntoAddress,
        fd: impl Into<OwnedFd>,
    ) -> Result<(), StartError> {
        let address = self.parse(name, address)?;
        let receive = |address: &Address| sockets::receive(name, address, fd.into());
        self.inherit_or::<OwnedFd>(name, &address, receive).map(drop)
    }

    fn obtain<T: FromListener>(
        &self,
        name: &str,
        address: impl IntoAddress,
        bind: impl FnOnce(&Address) -> Result<BoundSocket, StartError>,
    ) -> Result<T, StartError> {
        let address = self.parse(name, address)?;
        if self.is_declared(name, &address) {
            return self.declared(name);
        }
        self.inherit_or(name, &address, bind)
    }

    fn inherit_or<T: FromListener>(
        &self,
        name: &str,
        address: &Address,
        bind: impl FnOnce(&Address) -> Result<BoundSocket, StartError>,
    ) -> Result<T, StartError> {
        let obtained = self.enter(name, address, |offered| match offered {
            Some((entry, fd)) => sockets::adopt(address, entry, fd).map(Some),
            None => bind(address).map(Some),
        })?;
        Ok(obtained.expect("it is inherited or bound"))
    }

    /// Whether a listener is declared with this name and address and has not been taken.
    fn is_declared(&self, name: &str, address: &Address) -> bool {
        let is_it = |held: &BoundSocket| held.name == name && held.address.identity() == address.identity();
        self.shared.pool().iter().any(|pool| pool.declared.iter().any(is_it))
    }

    fn parse(&self, name: &str, address: impl IntoAddress) -> Result<Address, StartError> {
        check_name(name)?;
        address.into_address().map_err(|(text, source)| StartError::Address {
            listener: name.to_owned(),
            text,
            source,
        })
    }

    /// Makes a listener without the lock of the pool, because resolving a name may take long and the engine needs the
    /// lock. The name and the address are reserved instead.
    fn enter<T: FromListener>(
        &self,
        name: &str,
        address: &Address,
        make_held: impl FnOnce(Option<(Entry, OwnedFd)>) -> Result<Option<BoundSocket>, StartError>,
    ) -> Result<Option<T>, StartError> {
        check_kind::<T>(name, address)?;
        let unadopted = self.reserve(name, address)?;
        let _binding = self.shared.binding(address);
        let adopted = unadopted.as_ref().and_then(|it| it.source.place());
        let mut gates = Vec::new();
        let made = make_held(unadopted.map(|it| (it.entry, it.fd))).and_then(|held| match held {
            Some(held) => match make(&held, &self.shared, &mut gates) {
                Ok(made) => Ok(Some((made, held))),
                Err(error) => {
                    sockets::forget(&[held], self.shared.who());
                    Err(error)
                }
            },
            None => Ok(None),
        });
        // Posted while the lock is held that readiness takes: the engine sees all of it or, once ready, none.
        let mut pool = self.shared.pool();
        match (made, pool.as_mut()) {
            (Ok(Some((made, held))), Some(_)) => {
                self.shared.post(Note::Listener { held: Some(Box::new(held)), gates, adopted });
                Ok(Some(made))
            }
            (Ok(Some((_, held))), None) => {
                sockets::forget(&[held], self.shared.who());
                Err(too_late(name))
            }
            (nothing, Some(pool)) => {
                pool.used.retain(|(used, _)| used != name);
                nothing.map(|_| None)
            }
            (nothing, None) => nothing.map(|_| None),
        }
    }

    /// Reserves the name and the address; takes the socket that the predecessor has offered for them.
    fn reserve(&self, name: &str, address: &Address) -> Result<Option<Unadopted>, StartError> {
        let fail = |problem: String| StartError::Listener { listener: name.to_owned(), problem };
        let mut pool = self.shared.pool();
        let pool = pool.as_mut().ok_or_else(|| too_late(name))?;
        if pool.used.len() >= MAX_LISTENERS {
            return Err(fail(too_many_listeners()));
        }
        if pool.used.iter().any(|(used, _)| used == name) {
            return Err(fail("there is one of this name already".to_owned()));
        }
        if let Some((other, _)) = pool.used.iter().find(|(_, used)| collide(used, address)) {
            return Err(fail(format!("it has the address of `{other}`, {}", address.identity())));
        }
        pool.used.push((name.to_owned(), address.clone()));
        Ok(unadopted::take_offered(&mut pool.unadopted, name, address))
    }
}

/// The place of the declared listener of this name, if nobody has taken it.
fn untaken(pool: &Pool, name: &str) -> Result<usize, StartError> {
    let is_used = pool.used.iter().any(|(used, _)| used == name);
    let problem = if is_used { TAKEN } else { NOT_DECLARED };
    pool.declared
        .iter()
        .position(|held| held.name == name)
        .ok_or_else(|| StartError::Listener { listener: name.to_owned(), problem: problem.to_owned() })
}

fn too_late(name: &str) -> StartError {
    let problem = "the service is ready; listeners are bound before that".to_owned();
    StartError::Listener { listener: name.to_owned(), problem }
}

impl FromHarness for Listeners {
    fn from_harness(start: &mut Start) -> Self {
        let used = start.held.iter().map(|held| (held.name.clone(), held.address.clone())).collect();
        let is_left = |held: &&BoundSocket| !start.taken.contains(&held.name);
        let declared = start.held.iter().filter(is_left).cloned().collect();
        let unadopted = std::mem::take(&mut start.unadopted);
        start.shared.pool().get_or_insert_with(|| Pool { declared, unadopted, used });
        Listeners { shared: start.shared.clone() }
    }
}
