//! A new socket: socket(2), the options of its address, bind(2) and listen(2).

use std::io;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::platform;
use crate::base::address::{Address, Kind};
use crate::sys::fd::BorrowedFd;

/// The default of the backlog. The system caps it: Linux at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why there is no bound socket.
#[derive(Debug)]
pub(super) struct CreateError {
    /// What this process was doing, as a verb.
    pub(super) action: &'static str,
    pub(super) source: io::Error,
}

/// The action of bind(2): of no other call an address or a directory is the cause of a failure.
pub(super) const BIND: &str = "bind";

impl From<io::Error> for CreateError {
    /// An error of bind(2), or of a look at what is in the way.
    fn from(source: io::Error) -> Self {
        Self { action: BIND, source }
    }
}

/// socket(2) and bind(2), with the options that must be set before the bind.
pub(super) fn bind_one(address: &Address, at: &SockAddr) -> Result<Socket, CreateError> {
    let failed = |action| move |source| CreateError { action, source };
    // socket2 makes it close-on-exec.
    let socket =
        Socket::new(at.domain(), socket_type(address.kind()), None).map_err(failed("make a socket for"))?;
    set_options(&socket, address, at).map_err(failed("set the options of a socket for"))?;
    platform::set_mode(&socket, address).map_err(failed("set the mode of a socket for"))?;
    socket.bind(at)?;
    Ok(socket)
}

fn set_options(socket: &Socket, address: &Address, at: &SockAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let options = address.options();
    // On Windows it would let two processes listen on one port.
    #[cfg(unix)]
    if address.kind() == Kind::Tcp {
        // Connections in TIME_WAIT would keep the port from a service that was stopped and is started again.
        socket.set_reuse_address(true)?;
    }
    if let Some(on) = options.reuse_port {
        platform::set_reuse_port(socket, on)?;
    }
    if let (Some(on), true) = (options.v6only, at.domain() == Domain::IPV6) {
        socket.set_only_v6(on)?;
    }
    platform::set_options_of_linux(socket, address, at)?;
    set_live_options(address, SockRef::from(socket))
}

/// Sets the options of an address on a new socket, so that a value that this system refuses is an error of the
/// start: the adopted socket gets them at the take-over.
pub(super) fn try_live_options(address: &Address, adopted: SockRef<'_>) -> io::Result<()> {
    let domain = adopted.local_addr()?.domain();
    let socket = Socket::new(domain, socket_type(address.kind()), None)?;
    set_live_options(address, SockRef::from(&socket))?;
    let fastopen = address.options().fastopen;
    fastopen.map_or(Ok(()), |pending| platform::set_fastopen(&SockRef::from(&socket), pending))
}

/// The options that a bound socket takes as well, and a connection: a successor sets its own on what it gets.
pub(crate) fn set_live_options(address: &Address, socket: SockRef<'_>) -> io::Result<()> {
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
pub(super) fn listen(address: &Address, fd: BorrowedFd<'_>) -> io::Result<()> {
    if !address.kind().is_listening() {
        return Ok(());
    }
    if let Some(pending) = address.options().fastopen {
        platform::set_fastopen(&SockRef::from(&fd), pending)?;
    }
    set_backlog(address, fd)
}

pub(super) fn set_backlog(address: &Address, fd: BorrowedFd<'_>) -> io::Result<()> {
    if !address.kind().is_listening() {
        return Ok(());
    }
    SockRef::from(&fd).listen(backlog(address))
}

pub(super) fn backlog(address: &Address) -> i32 {
    address.options().backlog.map_or(BACKLOG, |n| i32::try_from(n).unwrap_or(i32::MAX))
}

pub(super) fn socket_type(kind: Kind) -> Type {
    match kind {
        Kind::Tcp | Kind::Unix => Type::STREAM,
        Kind::Udp | Kind::UnixDatagram => Type::DGRAM,
        Kind::UnixSeqpacket => Type::SEQPACKET,
    }
}
