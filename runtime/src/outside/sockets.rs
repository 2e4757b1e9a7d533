//! Listening and datagram sockets: bind, adopt, verify, options, unlink.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{SockFlag, SockaddrStorage, getpeername, getsockname, sockopt};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Group, User, geteuid};
use socket2::{Domain, SockAddr, SockAddrStorage, SockRef, Socket, Type};

use crate::base::address::{Address, Host, Kind, Place};
use crate::base::error::StartError;
use crate::base::report::{Who, complain, printable};
use crate::base::unadopted::Entry;
use crate::outside::hint;

/// Our default of the backlog: what the kernel caps at `net.core.somaxconn`, as the tools of this field do.
const BACKLOG: i32 = 4096;

/// A socket that this process holds for as long as it lives, apart from what its body takes.
#[derive(Clone, Debug)]
pub(crate) struct BoundSocket {
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) fd: Arc<OwnedFd>,
    /// Device and inode of the Unix path, as it was bound.
    pub(crate) inode: Option<(u64, u64)>,
    /// It was bound here and not inherited.
    pub(crate) created: bool,
    /// It is one of a socket unit: the service manager has it, and its path is the manager's.
    pub(crate) activated: bool,
    /// The options of the address are set. On a socket that another process has as well, that waits for the take-over.
    pub(crate) tuned: bool,
    /// The options as they were before the successor got the socket.
    pub(crate) before_successor: Option<Tuning>,
}

impl BoundSocket {
    /// Its entry in an offer.
    pub(crate) fn entry(&self) -> Entry {
        Entry {
            name: self.name.clone(),
            address: self.address.identity(),
            inode: self.inode,
            activated: self.activated,
        }
    }

    /// The port it is bound to, for an IP socket.
    pub(crate) fn port(&self) -> Option<u16> {
        Some(SockRef::from(&self.fd).local_addr().ok()?.as_socket()?.port())
    }

    /// How many connections wait in its queue, and how many may, where the system tells: of a listener of TCP, tcp(7).
    pub(crate) fn queue(&self) -> Option<(u32, u32)> {
        (self.address.kind() == Kind::Tcp).then(|| accept_queue(self.fd.as_fd()))?
    }

    /// Whether clients find something else than this socket at its path, or nothing.
    ///
    /// A bound socket keeps its file from being freed, so no other file has the inode number as long as this one is open.
    pub(crate) fn is_cut_off(&self) -> bool {
        let bound = self.address.path().zip(self.inode);
        bound.is_some_and(|(path, inode)| inode_of(path).ok() != Some(inode))
    }

    /// Removes its path, unless the file there is not the one that was bound, as in [`is_cut_off`](Self::is_cut_off).
    pub(crate) fn unlink(&self) -> io::Result<()> {
        let (Some(path), Some(inode)) = (self.address.path(), self.inode) else { return Ok(()) };
        match inode_of(path) {
            Ok(now) if now == inode => fs::remove_file(path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes its path as the service ends, or lets go of it.
    pub(crate) fn remove(&self, who: Who) {
        if let Err(error) = self.unlink() {
            complain!(who, "cannot remove {}: {error}", self.address.identity());
        }
    }

    /// A descriptor of its own for the body.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// O_NONBLOCK belongs to the open file description, which every process that inherited the socket shares: one
    /// that cleared it would leave this process asleep in an accept. Returns whether somebody had.
    pub(crate) fn restore_nonblocking(&self) -> io::Result<bool> {
        let socket = SockRef::from(&self.fd);
        let cleared = !socket.nonblocking()?;
        if cleared {
            socket.set_nonblocking(true)?;
        }
        Ok(cleared)
    }

    /// Sets the options of the address on a socket that was adopted, at the take-over: they belong to the open file
    /// description, and until then it is the predecessor that serves with it.
    pub(crate) fn tune(&mut self) -> io::Result<()> {
        if !self.tuned {
            set_live_options(&self.address, SockRef::from(&self.fd))?;
            listen(&self.address, self.fd.as_fd())?;
            self.tuned = true;
        }
        Ok(())
    }

    /// Reads the options, for [`undo_tuning`](Self::undo_tuning).
    pub(crate) fn note_tuning(&mut self) {
        self.before_successor = Some(Tuning::of(self.address.kind(), self.fd.as_fd()));
    }

    /// Sets the options to what they were before the successor, which is dead, got the socket. Returns the names of those
    /// that it had changed.
    pub(crate) fn undo_tuning(&mut self) -> io::Result<Vec<&'static str>> {
        let Some(before) = self.before_successor.take() else { return Ok(Vec::new()) };
        let undone = before.restore(self.fd.as_fd())?;
        // Of a Unix listener nothing but netlink tells the backlog. It costs less to set it again.
        if before.backlog.is_none() {
            set_backlog(&self.address, self.fd.as_fd())?;
        }
        Ok(undone)
    }
}

/// What the value of an option is, getsockopt(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Number,
    /// A number of which the kernel answers with twice what it was told, socket(7).
    Doubled,
    /// A number: 536 is what a listener answers for none, tcp(7).
    Segment,
    /// `struct linger`: what is off has a time all the same.
    Linger,
    /// `struct timeval`.
    Time,
}

/// The longest value of an option, of which those that are shorter have zeroes at the end.
type Value = [u8; 16];

const _: () = assert!(size_of::<libc::timeval>() <= size_of::<Value>());

impl Form {
    fn size(self) -> usize {
        match self {
            Self::Number | Self::Doubled | Self::Segment => size_of::<libc::c_int>(),
            Self::Linger => size_of::<libc::linger>(),
            Self::Time => size_of::<libc::timeval>(),
        }
    }

    fn get(self, fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<Value> {
        let mut value = Value::default();
        get_bytes(fd, level, option, &mut value[..self.size()])?;
        if self == Self::Linger && first(value) == 0 {
            value = Value::default();
        }
        Ok(value)
    }

    /// What is to be set for the kernel to answer `value`.
    fn to_set(self, mut value: Value) -> Value {
        const NO_SEGMENT: libc::c_int = 536;
        let number = first(value);
        let number = match self {
            Self::Doubled => number / 2,
            Self::Segment if number == NO_SEGMENT => 0,
            _ => number,
        };
        value[..size_of_val(&number)].copy_from_slice(&number.to_ne_bytes());
        value
    }
}

/// The number that a value begins with.
fn first(value: Value) -> libc::c_int {
    let [a, b, c, d, ..] = value;
    libc::c_int::from_ne_bytes([a, b, c, d])
}

/// An option that belongs to the open file description: its name, its level and its number.
type TuningRow = (&'static str, libc::c_int, libc::c_int, Form);

/// Since Linux 4.10, ipv6(7); the least hop count of a packet that is taken.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// The options that a release can change on a socket that is bound already: those of an address, and the others that a
/// program sets on a listener for the sake of its connections, which inherit them.
///
/// TCP_WINDOW_CLAMP is inherited as well and is missing: a listener cannot be told to have none again.
const TUNING_ROWS: [TuningRow; 24] = [
    // It makes a receive buffer larger that is too small for it.
    ("SO_RCVLOWAT", libc::SOL_SOCKET, libc::SO_RCVLOWAT, Form::Number),
    ("recv_buffer", libc::SOL_SOCKET, libc::SO_RCVBUF, Form::Doubled),
    ("send_buffer", libc::SOL_SOCKET, libc::SO_SNDBUF, Form::Doubled),
    // Setting a size locks it. Unlocked, the kernel adjusts the buffers of each TCP connection.
    ("SO_BUF_LOCK", libc::SOL_SOCKET, libc::SO_BUF_LOCK, Form::Number),
    ("keepalive", libc::SOL_SOCKET, libc::SO_KEEPALIVE, Form::Number),
    ("nodelay", libc::IPPROTO_TCP, libc::TCP_NODELAY, Form::Number),
    ("fastopen", libc::IPPROTO_TCP, libc::TCP_FASTOPEN, Form::Number),
    ("TCP_KEEPIDLE", libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, Form::Number),
    ("TCP_KEEPINTVL", libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, Form::Number),
    ("TCP_KEEPCNT", libc::IPPROTO_TCP, libc::TCP_KEEPCNT, Form::Number),
    ("TCP_DEFER_ACCEPT", libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, Form::Number),
    ("TCP_USER_TIMEOUT", libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, Form::Number),
    ("TCP_MAXSEG", libc::IPPROTO_TCP, libc::TCP_MAXSEG, Form::Segment),
    ("SO_LINGER", libc::SOL_SOCKET, libc::SO_LINGER, Form::Linger),
    ("SO_RCVTIMEO", libc::SOL_SOCKET, libc::SO_RCVTIMEO, Form::Time),
    ("SO_SNDTIMEO", libc::SOL_SOCKET, libc::SO_SNDTIMEO, Form::Time),
    // An IPv6 socket has both, for clients of IPv4.
    ("IP_TTL", libc::IPPROTO_IP, libc::IP_TTL, Form::Number),
    ("IP_MINTTL", libc::IPPROTO_IP, libc::IP_MINTTL, Form::Number),
    ("IP_TOS", libc::IPPROTO_IP, libc::IP_TOS, Form::Number),
    ("IPV6_UNICAST_HOPS", libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, Form::Number),
    ("IPV6_MINHOPCOUNT", libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, Form::Number),
    ("IPV6_TCLASS", libc::IPPROTO_IPV6, libc::IPV6_TCLASS, Form::Number),
    // IP_TOS sets it.
    ("SO_PRIORITY", libc::SOL_SOCKET, libc::SO_PRIORITY, Form::Number),
    ("SO_MARK", libc::SOL_SOCKET, libc::SO_MARK, Form::Number),
];

/// The values of the options that belong to the open file description, which every process that has the socket shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tuning {
    /// In the order of the rows; `None` for an option that this kind of socket, or this kernel, has not.
    values: [Option<Value>; TUNING_ROWS.len()],
    /// Of a TCP listener.
    backlog: Option<u32>,
}

impl Tuning {
    fn of(kind: Kind, fd: BorrowedFd<'_>) -> Self {
        let value = |(_, level, option, form): TuningRow| {
            let is_known = level != libc::IPPROTO_TCP || kind == Kind::Tcp;
            is_known.then(|| form.get(fd, level, option).ok()).flatten()
        };
        let backlog = (kind == Kind::Tcp).then(|| accept_queue(fd)).flatten().map(|(_, backlog)| backlog);
        Self { values: TUNING_ROWS.map(value), backlog }
    }

    /// Sets what differs. Returns the names of it.
    ///
    /// # Errors
    ///
    /// The first of those that could not be set. The others are set all the same: a mark, or a high priority, takes CAP_NET_ADMIN.
    fn restore(&self, fd: BorrowedFd<'_>) -> io::Result<Vec<&'static str>> {
        let mut undone = Vec::new();
        let mut failed = Ok(());
        // In the order of the rows: a size that is set locks its buffer.
        for ((name, level, option, form), before) in TUNING_ROWS.into_iter().zip(self.values) {
            let Some(before) = before else { continue };
            let set = || {
                let differs = form.get(fd, level, option)? != before;
                if differs {
                    set_bytes(fd, level, option, &form.to_set(before)[..form.size()])?;
                }
                Ok(differs)
            };
            match set() {
                Ok(true) => undone.push(name),
                Ok(false) => {}
                Err(error) => failed = failed.and(Err(named(name, error))),
            }
        }
        if let Some(before) = self.backlog.filter(|_| is_shut_down(fd)) {
            listen_again(fd, i32::try_from(before).unwrap_or(i32::MAX))?;
            undone.push("shutdown(2)");
        }
        let backlog = self.backlog.zip(accept_queue(fd).map(|(_, backlog)| backlog));
        if let Some((before, _)) = backlog.filter(|(before, now)| before != now) {
            SockRef::from(&fd).listen(i32::try_from(before).unwrap_or(i32::MAX))?;
            undone.push("backlog");
        }
        failed.map(|()| undone)
    }
}

fn named(option: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{option}: {error}"))
}

pub(crate) fn inode_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Why an address could not be bound.
pub(crate) struct BindError {
    error: StartError,
    /// What was tried, if it is an error of bind(2).
    tried: Option<Vec<SocketAddr>>,
}

impl BindError {
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(&self.error, StartError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }

    /// With what is behind an error of bind(2), which may take a look at every process.
    pub(crate) fn explained(self) -> StartError {
        match (self.error, self.tried) {
            (StartError::Bind { listener, address, action, source }, Some(tried)) => {
                let source = hint::bind(&address, &tried, source);
                StartError::Bind { listener, address, action, source }
            }
            (error, _) => error,
        }
    }
}

impl From<StartError> for BindError {
    fn from(error: StartError) -> Self {
        Self { error, tried: None }
    }
}

/// Binds `address`; its kind listens from now on, if it is of those that do.
pub(crate) fn bind(name: &str, address: &Address) -> Result<BoundSocket, StartError> {
    try_bind(name, address).map_err(BindError::explained)
}

/// The same for whoever may try it again.
pub(crate) fn try_bind(name: &str, address: &Address) -> Result<BoundSocket, BindError> {
    let failed = |action| {
        move |source| StartError::Bind {
            listener: name.to_owned(),
            address: Box::new(address.clone()),
            action,
            source,
        }
    };
    let (socket, inode) = match address.place() {
        Place::Ip { host, port } => {
            let candidates = resolve(host, *port).map_err(failed("resolve"))?;
            let bound = bind_first(address, &candidates).map_err(failed("bind"));
            (bound.map_err(|error| BindError { error, tried: Some(candidates) })?, None)
        }
        Place::Abstract(abstract_name) => {
            let mut bytes = vec![0];
            bytes.extend_from_slice(abstract_name.as_bytes());
            let at = SockAddr::unix(OsStr::from_bytes(&bytes)).map_err(failed("bind"))?;
            (bind_one(address, &at).map_err(failed("bind"))?, None)
        }
        Place::Path(path) => {
            let path = Path::new(path);
            // Until it listens: before that a client is refused there as at a path that nobody serves.
            let _lock = PathLock::take(path);
            let socket = bind_path(address, path).map_err(failed("bind"));
            let socket = socket.map_err(|error| BindError { error, tried: Some(Vec::new()) })?;
            let file = hold_own_socket(path).map_err(failed("look at"))?;
            let inode = file.metadata().map(|file| (file.dev(), file.ino())).map_err(failed("look at"))?;
            // The permissions are set before anybody can connect.
            let held = BoundSocket {
                name: name.to_owned(),
                address: address.clone(),
                fd: Arc::new(socket.into()),
                inode: Some(inode),
                created: true,
                activated: false,
                tuned: true,
                before_successor: None,
            };
            let permitted = set_permissions(address, &file).and_then(|()| listen(address, held.fd.as_fd()));
            if let Err(error) = permitted {
                return Err(match held.unlink() {
                    Ok(()) | Err(_) => failed("set up")(error).into(),
                });
            }
            return Ok(held);
        }
    };
    let fd = Arc::new(OwnedFd::from(socket));
    listen(address, fd.as_fd()).map_err(failed("listen on"))?;
    Ok(BoundSocket {
        name: name.to_owned(),
        address: address.clone(),
        fd,
        inode,
        created: true,
        activated: false,
        tuned: true,
        before_successor: None,
    })
}

fn resolve(host: &Host, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(match host {
        Host::V4(ip) => vec![(*ip, port).into()],
        Host::V6(ip) => vec![(*ip, port).into()],
        Host::Name(name) => (name.as_str(), port).to_socket_addrs()?.collect(),
    })
}

/// The first of the addresses of a name that can be bound, as std and tokio do.
fn bind_first(address: &Address, candidates: &[SocketAddr]) -> io::Result<Socket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for candidate in candidates {
        match bind_one(address, &(*candidate).into()) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// socket(2) and bind(2), with the options that must be set before it.
fn bind_one(address: &Address, at: &SockAddr) -> io::Result<Socket> {
    // socket2 makes it SOCK_CLOEXEC.
    let socket = Socket::new(at.domain(), socket_type(address.kind()), None)?;
    socket.set_nonblocking(true)?;
    let options = address.options();
    if address.kind() == Kind::Tcp {
        // Connections in TIME_WAIT would keep the port from a service that was stopped and is started again.
        socket.set_reuse_address(true)?;
    }
    if let Some(on) = options.reuse_port {
        socket.set_reuse_port(on)?;
    }
    if let (Some(on), true) = (options.v6only, at.domain() == Domain::IPV6) {
        socket.set_only_v6(on)?;
    }
    if let Some(on) = options.freebind {
        if at.domain() == Domain::IPV6 { socket.set_freebind_v6(on)? } else { socket.set_freebind_v4(on)? }
    }
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    set_live_options(address, SockRef::from(&socket))?;
    if let Some(mode) = options.mode {
        // The path gets it, less the umask, as it appears: nobody it keeps out has a moment to come in.
        fchmod(&socket, Mode::from_bits_truncate(mode))?;
    }
    socket.bind(at)?;
    Ok(socket)
}

/// Sets the options of an address on a socket that is nobody's, so that a value that this system refuses is an error of the
/// start: the adopted socket gets them at the take-over.
fn try_live_options(address: &Address, adopted: SockRef<'_>) -> io::Result<()> {
    let socket = Socket::new(adopted.domain()?, socket_type(address.kind()), None)?;
    set_live_options(address, SockRef::from(&socket))?;
    address.options().fastopen.map_or(Ok(()), |pending| set_fastopen(socket.as_fd(), pending))
}

/// The options that a bound socket takes as well; a successor sets its own on a socket that it adopts.
fn set_live_options(address: &Address, socket: SockRef<'_>) -> io::Result<()> {
    let options = address.options();
    if let Some(bytes) = options.recv_buffer {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    if let Some(on) = options.nodelay {
        socket.set_tcp_nodelay(on)?;
    }
    if let Some(on) = options.keepalive {
        socket.set_keepalive(on)?;
    }
    Ok(())
}

/// listen(2). On a socket that listens already it changes the backlog.
fn listen(address: &Address, fd: BorrowedFd<'_>) -> io::Result<()> {
    if !address.kind().is_listening() {
        return Ok(());
    }
    if let Some(pending) = address.options().fastopen {
        set_fastopen(fd, pending)?;
    }
    set_backlog(address, fd)
}

fn set_backlog(address: &Address, fd: BorrowedFd<'_>) -> io::Result<()> {
    if !address.kind().is_listening() {
        return Ok(());
    }
    SockRef::from(&fd).listen(backlog(address))
}

fn backlog(address: &Address) -> i32 {
    address.options().backlog.map_or(BACKLOG, |n| i32::try_from(n).unwrap_or(i32::MAX))
}

/// Whether a listener of TCP does not listen any more. One for Unix sockets cannot be told, nor made to listen again.
fn is_shut_down(listener: BorrowedFd<'_>) -> bool {
    nix::sys::socket::getsockopt(&listener, sockopt::AcceptConn).is_ok_and(|listens| !listens)
}

/// listen(2) on a listener that was shut down. The connections that it accepts would be shut down as well if it were not
/// disconnected first, connect(2) with AF_UNSPEC.
fn listen_again(listener: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: it is a C struct of numbers, for which zeroes are values.
    let mut nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    nowhere.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let length = size_of_val(&nowhere) as libc::socklen_t;
    // SAFETY: the pointer describes `nowhere`, which lives through the call.
    Errno::result(unsafe { libc::connect(listener.as_raw_fd(), &raw const nowhere, length) })?;
    SockRef::from(&listener).listen(backlog)
}

/// TCP_INFO of a listener, whose `tcpi_unacked` is the length of its accept queue and `tcpi_sacked` the backlog.
fn accept_queue(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    // SAFETY: it is a C struct of numbers, for which zeroes are values.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointers describe `info` and its length, which live through the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).ok()?;
    Some((info.tcpi_unacked, info.tcpi_sacked))
}

fn set_fastopen(fd: BorrowedFd<'_>, pending: u32) -> io::Result<()> {
    let pending = libc::c_int::try_from(pending).unwrap_or(libc::c_int::MAX);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, pending)
}

/// getsockopt(2) of an option whose value is as long as `value`.
fn get_bytes(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &mut [u8],
) -> io::Result<()> {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the pointers describe `value` and its length, which live through the call.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length)
    };
    Errno::result(result)?;
    Ok(())
}

/// setsockopt(2) of an option that is a number.
fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set_bytes(fd, level, option, &value.to_ne_bytes())
}

/// setsockopt(2).
fn set_bytes(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: &[u8]) -> io::Result<()> {
    let length = value.len() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which lives through the call.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    Errno::result(result)?;
    Ok(())
}

fn socket_type(kind: Kind) -> Type {
    match kind {
        Kind::Tcp | Kind::Unix => Type::STREAM,
        Kind::Udp | Kind::UnixDatagram => Type::DGRAM,
        Kind::UnixSeqpacket => Type::SEQPACKET,
    }
}

/// The right to bind the Unix paths of a directory, and to make the pid files there name another service: a name in the abstract namespace, which the kernel gives to one socket at a
/// time and frees when its process ends.
///
/// Two services that start at once on one path would take each other for dead: a socket that is bound and does not listen yet
/// refuses a client as a stale file does, and between a look at the path and its removal it can become the other's.
pub(crate) struct PathLock {
    _name: Option<UnixDatagram>,
}

/// How long another start may take to bind the path.
const PATH_LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two attempts.
const PATH_LOCK_PAUSE: Duration = Duration::from_millis(1);

impl PathLock {
    /// Waits until nobody else has it. Where it cannot be had the path is bound without: any user can take a name, and a
    /// sandbox can refuse them all.
    pub(crate) fn take(path: &Path) -> Self {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let deadline = Instant::now() + PATH_LOCK_TIMEOUT;
        let name = inode_of(directory.unwrap_or(Path::new("."))).and_then(|(device, inode)| {
            UnixSocketAddr::from_abstract_name(format!("tableflip-bind-{device:x}-{inode:x}"))
        });
        loop {
            match name.as_ref().map(UnixDatagram::bind_addr) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                    thread::sleep(PATH_LOCK_PAUSE);
                }
                result => return Self { _name: result.ok().and_then(Result::ok) },
            }
        }
    }
}

/// Binds a path. One that a dead process left is replaced; one that somebody serves is never taken.
fn bind_path(address: &Address, path: &Path) -> io::Result<Socket> {
    let at = SockAddr::unix(path)?;
    match bind_one(address, &at) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        result => return result,
    }
    // It stays open until the path is looked at again: a file system such as ext4 gives the inode number of a file that is
    // gone to the next one, which would pass for this one.
    let stale = match hold(path) {
        Ok(stale) => stale,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return bind_one(address, &at),
        Err(error) => return Err(error),
    };
    let found = stale.metadata()?;
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket is there"));
    }
    let probe = Socket::new(Domain::UNIX, socket_type(address.kind()), None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&at) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        // It may be stale, and it is not this user's to find out.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(io::Error::other(format!(
                "a socket is there to which this user may not connect: {error}"
            )));
        }
        // A full backlog, or a socket of another type: somebody is behind it.
        Ok(()) | Err(_) => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves it"));
        }
    }
    match inode_of(path) {
        Ok(now) if now == (found.dev(), found.ino()) => fs::remove_file(path)?,
        // Another process has replaced it meanwhile, or removed it. The bind tells.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    bind_one(address, &at)
}

/// A file itself, open for nothing but to be looked at; of a symbolic link the link.
fn hold(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// The socket file at a path that has just been bound, so that what is done to it is done to no other file: in a
/// directory that somebody else may write to, the path can be another file at any moment, or a link to one.
fn hold_own_socket(path: &Path) -> io::Result<fs::File> {
    let file = hold(path)?;
    let metadata = file.metadata()?;
    if metadata.file_type().is_socket() && metadata.uid() == geteuid().as_raw() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "somebody else has put another file there meanwhile"))
}

fn set_permissions(address: &Address, file: &fs::File) -> io::Result<()> {
    // A descriptor with O_PATH is changed through this link, open(2).
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let options = address.options();
    let unknown =
        |what, name| io::Error::new(io::ErrorKind::NotFound, format!("there is no {what} `{name}`"));
    if options.user.is_some() || options.group.is_some() {
        let user = options.user.as_deref().map(|name| match name.parse() {
            Ok(uid) => Ok(uid),
            Err(_) => User::from_name(name)?.map(|u| u.uid.as_raw()).ok_or_else(|| unknown("user", name)),
        });
        let group = options.group.as_deref().map(|name| match name.parse() {
            Ok(gid) => Ok(gid),
            Err(_) => Group::from_name(name)?.map(|g| g.gid.as_raw()).ok_or_else(|| unknown("group", name)),
        });
        std::os::unix::fs::chown(&path, user.transpose()?, group.transpose()?)?;
    }
    if let Some(mode) = options.mode {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Takes over a socket that arrived with `entry`, once it has been seen to be what `address` asks for.
pub(crate) fn adopt(address: &Address, entry: Entry, fd: OwnedFd) -> Result<BoundSocket, StartError> {
    let held = adopt_socket(printable(&entry.name), address, fd, "inherited")?;
    Ok(BoundSocket { inode: entry.inode, created: false, activated: entry.activated, ..held })
}

/// Takes a socket that the service itself has made and bound to `address`.
pub(crate) fn receive(name: &str, address: &Address, fd: OwnedFd) -> Result<BoundSocket, StartError> {
    let held = adopt_socket(name.to_owned(), address, fd, "made")?;
    let inode = address.path().and_then(|path| inode_of(path).ok());
    Ok(BoundSocket { inode, ..held })
}

pub(crate) fn adopt_socket(
    name: String,
    address: &Address,
    fd: OwnedFd,
    how: &str,
) -> Result<BoundSocket, StartError> {
    let problem = |problem: String| StartError::Listener { listener: name.clone(), problem };
    verify(address, fd.as_fd())
        .map_err(|what| problem(format!("the socket that was {how} for {address} {what}")))?;
    let system = |error: io::Error| problem(format!("cannot set up the socket that was {how}: {error}"));
    let socket = SockRef::from(&fd);
    socket.set_nonblocking(true).map_err(system)?;
    try_live_options(address, socket).map_err(system)?;
    Ok(BoundSocket {
        name,
        address: address.clone(),
        fd: Arc::new(fd),
        inode: None,
        created: true,
        activated: false,
        tuned: false,
        before_successor: None,
    })
}

/// Removes the paths that a start which failed has created.
pub(crate) fn forget(held: &[BoundSocket], who: Who) {
    held.iter().filter(|held| held.created).for_each(|held| held.remove(who));
}

/// Compares a socket with the address it is said to be bound to; says what is wrong with it.
pub(crate) fn verify(address: &Address, fd: BorrowedFd<'_>) -> Result<(), String> {
    let socket = SockRef::from(&fd);
    let cannot = |error: io::Error| format!("cannot be looked at: {error}");
    let found = socket.r#type().map_err(cannot)?;
    if found != socket_type(address.kind()) {
        return Err(format!("is of another type (SO_TYPE {found:?})"));
    }
    let listens = nix::sys::socket::getsockopt(&fd, sockopt::AcceptConn).map_err(|e| cannot(e.into()))?;
    if listens != address.kind().is_listening() {
        return Err(if listens { "listens" } else { "does not listen (SO_ACCEPTCONN)" }.to_owned());
    }
    let bound = socket.local_addr().map_err(cannot)?;
    let same = match address.place() {
        Place::Ip { host, port } => bound.as_socket().is_some_and(|bound| {
            let same_host = match host {
                Host::V4(ip) => bound.ip() == *ip,
                Host::V6(ip) => bound.ip() == *ip,
                // What a name means may have changed since it was bound.
                Host::Name(_) => true,
            };
            same_host && (*port == 0 || bound.port() == *port)
        }),
        Place::Path(path) => bound.as_pathname() == Some(Path::new(path)),
        Place::Abstract(name) => bound.as_abstract_namespace() == Some(name.as_bytes()),
    };
    if same { Ok(()) } else { Err(format!("is bound elsewhere (getsockname {})", describe(&bound))) }
}

fn describe(bound: &SockAddr) -> String {
    if let Some(ip) = bound.as_socket() {
        ip.to_string()
    } else if let Some(path) = bound.as_pathname() {
        printable(&path.display().to_string())
    } else {
        format!("{bound:?}")
    }
}

/// accept4(2) with SOCK_CLOEXEC and these flags; with the address of the peer, which costs a call of its own later.
///
/// A connection that died in the queue is `Interrupted`: there is a next attempt, as accept(2) says of these errors.
pub(crate) fn accept(listener: BorrowedFd<'_>, flags: SockFlag) -> io::Result<(OwnedFd, SockAddr)> {
    let accept = |storage: *mut SockAddrStorage, length: *mut libc::socklen_t| {
        let flags = (SockFlag::SOCK_CLOEXEC | flags).bits();
        // SAFETY: `try_init` gives room for any address, and its length.
        let result = unsafe { libc::accept4(listener.as_raw_fd(), storage.cast(), length, flags) };
        match Errno::result(result) {
            // SAFETY: accept4 has just returned this descriptor; nobody else knows its number.
            Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            Err(
                Errno::EINTR
                | Errno::ECONNABORTED
                | Errno::ENETDOWN
                | Errno::EPROTO
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH,
            ) => Err(io::ErrorKind::Interrupted.into()),
            Err(errno) => Err(errno.into()),
        }
    };
    // SAFETY: where accept4 succeeds it has set the address and its length.
    unsafe { SockAddr::try_init(accept) }
}

/// The address of a Unix socket as std has it, be it a path, a name in the abstract namespace or none. `None` for a path
/// that fills its field to the last byte, which std makes of no text.
pub(crate) fn unix_address(address: &SockAddr) -> Option<UnixSocketAddr> {
    if let Some(name) = address.as_abstract_namespace() {
        return UnixSocketAddr::from_abstract_name(name).ok();
    }
    if address.is_unnamed() {
        // What std makes of an empty path is the address without a name.
        return UnixSocketAddr::from_pathname("").ok();
    }
    UnixSocketAddr::from_pathname(address.as_pathname()?).ok()
}

/// The peers of the connections of this process to one of these ports of ours, at most `limit` of them.
///
/// The system is asked, so that no list has to be kept while connections come and go.
pub(crate) fn peers(ports: &[u16], limit: usize) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let peer = |number: i32| {
        // A number that is closed meanwhile, or no socket, has neither name.
        let local = to_ip(&getsockname::<SockaddrStorage>(number).ok()?)?;
        ports.contains(&local.port()).then_some(())?;
        Some(to_ip(&getpeername::<SockaddrStorage>(number).ok()?)?.to_string())
    };
    numbers.filter_map(peer).take(limit).collect()
}

fn to_ip(name: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = name.as_sockaddr_in().map(|name| SocketAddr::V4((*name).into()));
    v4.or_else(|| name.as_sockaddr_in6().map(|name| SocketAddr::V6((*name).into())))
}

/// The numbers that the environment has for inherited descriptors, as far as they are taken. There is one for a process, and each
/// number is taken once: of two owners the first that closes it would close whatever the other has by then.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    taken: Vec<(RawFd, &'static str)>,
}

impl Numbers {
    /// Takes the descriptor of this number, which `variable` names, if it is open and what `is_wanted` says. Else it says in words
    /// why not, and whoever has that number keeps it.
    ///
    /// Must be called before this process opens anything that could have the number.
    pub(crate) fn take(
        &mut self,
        variable: &'static str,
        number: RawFd,
        is_wanted: impl FnOnce(BorrowedFd<'_>) -> Result<(), String>,
    ) -> Result<OwnedFd, String> {
        if let Some((_, other)) = self.taken.iter().find(|(taken, _)| *taken == number) {
            return Err(format!(
                "descriptor {number} is that of `{other}`; each variable has one of its own"
            ));
        }
        let closed = |errno: Errno| format!("no such descriptor: {}", io::Error::from(errno));
        // The three standard streams belong to others in this very process.
        if number <= libc::STDERR_FILENO {
            return Err(closed(Errno::EBADF));
        }
        // SAFETY: fcntl with F_GETFD takes any number, and says EBADF if it is not open.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        Errno::result(flags).map_err(closed)?;
        // SAFETY: it is open, and nothing closes it while this function looks at it.
        is_wanted(unsafe { BorrowedFd::borrow_raw(number) })?;
        // SAFETY: fcntl with F_SETFD takes any number.
        let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        Errno::result(result).map_err(closed)?;
        self.taken.push((number, variable));
        // SAFETY: it is open, and this runs before any other code of the process could have opened it: it came
        // through exec, and this is the first time that the number is taken.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

/// Whether an accept has failed for want of something that others may give back: descriptors, memory, and the watches of epoll (ENOSPC:
/// /proc/sys/fs/epoll/max_user_watches).
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let passing = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::ENOSPC];
    error.raw_os_error().is_some_and(|errno| passing.contains(&Errno::from_raw(errno)))
}

/// Has a listener listen again, if this error of an accept says that another process has shut it down, shutdown(2). Returns whether it
/// was that.
pub(crate) fn listen_if_shut_down(
    listener: BorrowedFd<'_>,
    address: &Address,
    error: &io::Error,
) -> io::Result<bool> {
    let is_it = error.raw_os_error() == Some(libc::EINVAL) && is_shut_down(listener);
    if is_it {
        listen_again(listener, backlog(address))?;
    }
    Ok(is_it)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn a11_each_number_is_taken_once() {
        let number = File::open("/dev/null").unwrap().into_raw_fd();
        let mut numbers = Numbers::default();
        let refused = numbers.take("FIRST", number, |_| Err("of another kind".to_owned()));
        assert_eq!(refused.unwrap_err(), "of another kind");
        // It is nobody's by that, and open.
        let taken = numbers.take("SECOND", number, |fd| {
            fd.try_clone_to_owned().map(drop).map_err(|error| error.to_string())
        });
        let taken = taken.unwrap();
        assert_eq!(taken.as_raw_fd(), number);
        let again = numbers.take("THIRD", number, |_| panic!("it is not looked at")).unwrap_err();
        assert!(again.contains(&format!("descriptor {number} is that of `SECOND`")), "{again}");
        for number in [-1, 0, 1, 2, 70_000, RawFd::MAX] {
            let error = numbers.take("FOURTH", number, |_| panic!("it is not looked at")).unwrap_err();
            assert!(error.starts_with("no such descriptor: "), "{number}: {error}");
        }
    }

    #[test]
    fn a_path_appears_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        for kind in ["unix", "unix-dgram", "unix-seqpacket"] {
            let path = dir.path().join(kind);
            let address: Address = format!("{kind}://{}?mode=600", path.display()).parse().unwrap();
            let socket = bind_path(&address, &path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{kind}");
            drop(socket);
        }
    }

    /// In one process, where the two are as near to each other as can be.
    #[test]
    fn a12_of_two_that_start_at_once_on_a_stale_path_one_serves_it() {
        for kind in ["unix", "unix-seqpacket", "unix-dgram"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("sock");
            let address: Address = format!("{kind}://{}", path.display()).parse().unwrap();
            for round in 0..1000 {
                drop(bind_one(&address, &SockAddr::unix(&path).unwrap()).unwrap());
                let barrier = std::sync::Barrier::new(2);
                let start = || {
                    barrier.wait();
                    try_bind("sock", &address)
                };
                let [one, other] = thread::scope(|scope| {
                    [scope.spawn(start), scope.spawn(start)].map(|it| it.join().unwrap())
                });
                let (held, refused) = match (one, other) {
                    (Ok(held), Err(refused)) | (Err(refused), Ok(held)) => (held, refused),
                    (Ok(_), Ok(_)) => panic!("{kind}, {round}: both have bound it"),
                    (Err(one), Err(other)) => panic!("{kind}, {round}: {}, {}", one.error, other.error),
                };
                assert!(refused.is_in_use(), "{kind}, {round}: {}", refused.error);
                assert!(!held.is_cut_off(), "{kind}, {round}");
                let client = Socket::new(Domain::UNIX, socket_type(address.kind()), None).unwrap();
                client.connect(&SockAddr::unix(&path).unwrap()).unwrap();
                held.unlink().unwrap();
                assert!(!path.exists());
            }
        }
    }

    /// A name that is taken for good, as any user can do, or as another start does that hangs.
    #[test]
    fn a12_a_path_is_bound_without_the_lock_that_nobody_gives_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let _taken = PathLock::take(&path);
        assert!(PathLock::take(&path)._name.is_none());
        let address: Address = format!("unix://{}", path.display()).parse().unwrap();
        assert!(try_bind("sock", &address).is_ok());
    }

    /// Each by itself: one may set another.
    #[test]
    fn f6_every_option_of_the_table_is_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let unix = format!("unix://{}", dir.path().join("sock").display());
        for address in ["tcp://127.0.0.1:0", "tcp://[::1]:0", "udp://127.0.0.1:0", "udp://[::1]:0", &unix] {
            let held = try_bind("it", &address.parse().unwrap()).map_err(BindError::explained).unwrap();
            let fd = held.fd.as_fd();
            let at_first = Tuning::of(held.address.kind(), fd);
            for ((name, level, option, form), before) in TUNING_ROWS.into_iter().zip(at_first.values) {
                let Some(before) = before else { continue };
                let mut other = form.to_set(before);
                let number = match form {
                    Form::Number if name == "IP_TOS" || name == "IPV6_TCLASS" => 32,
                    Form::Number | Form::Linger | Form::Time => first(other) + 1,
                    Form::Doubled => first(other) + 4000,
                    Form::Segment => 1000,
                };
                other[..4].copy_from_slice(&number.to_ne_bytes());
                match set_bytes(fd, level, option, &other[..form.size()]) {
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                    result => result.unwrap_or_else(|error| panic!("{address} {name}: {error}")),
                }
                assert_ne!(Tuning::of(held.address.kind(), fd), at_first, "{address} {name}");
                let undone = at_first.restore(fd).unwrap();
                assert!(undone.contains(&name), "{address} {name}: {undone:?}");
                assert_eq!(Tuning::of(held.address.kind(), fd), at_first, "{address} {name}");
                assert_eq!(at_first.restore(fd).unwrap(), [""; 0], "{address} {name}");
            }
        }
        let has = |kind, address: &str, name: &str| {
            let held = try_bind("it", &address.parse().unwrap()).map_err(BindError::explained).unwrap();
            let at = TUNING_ROWS.iter().position(|row| row.0 == name).unwrap();
            Tuning::of(kind, held.fd.as_fd()).values[at].is_some()
        };
        assert!(
            has(Kind::Tcp, "tcp://127.0.0.1:0", "IP_TTL") && has(Kind::Udp, "udp://[::1]:0", "IPV6_TCLASS")
        );
        assert!(!has(Kind::Tcp, "tcp://127.0.0.1:0", "IPV6_TCLASS"));
    }

    #[test]
    fn what_somebody_has_put_at_a_bound_path_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "").unwrap();
        fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
        let path = dir.path().join("sock");
        let address: Address = format!("unix://{}?mode=666", path.display()).parse().unwrap();

        let socket = bind_path(&address, &path).unwrap();
        let file = hold_own_socket(&path).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        set_permissions(&address, &file).unwrap();
        assert_eq!(fs::metadata(&precious).unwrap().mode() & 0o777, 0o600);
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o666, "it is the one that was bound");
        let refused = hold_own_socket(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{refused}");
        drop(socket);
    }
}
