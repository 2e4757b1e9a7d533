//! The types of std for the kinds of sockets, as the managed types use them.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;

use socket2::SockAddr;

use crate::sys::fd::{AsFd, OwnedFd};

/// A listener of std.
pub(crate) trait StdListener: 'static {
    type Stream: From<OwnedFd>;
    type Address;

    /// `None` for an address of another kind, or of which std makes no value.
    fn address(address: &SockAddr) -> Option<Self::Address>;

    /// getpeername(2).
    fn peer(stream: &Self::Stream) -> io::Result<Self::Address>;

    /// The address that a listener is bound to.
    fn bound_to(address: &SockAddr) -> io::Result<Self::Address> {
        Self::address(address).ok_or_else(|| io::Error::other("it is not bound to an address of its kind"))
    }

    /// An accepted connection and the address of its peer. `None` for a peer that is gone already and left a stream without an
    /// address, and nothing to serve.
    fn accepted(fd: OwnedFd, peer: &SockAddr) -> Option<(Self::Stream, Self::Address)> {
        let stream = Self::Stream::from(fd);
        let peer = Self::address(peer).map_or_else(|| Self::peer(&stream), Ok).ok()?;
        Some((stream, peer))
    }
}

impl StdListener for std::net::TcpListener {
    type Stream = std::net::TcpStream;
    type Address = SocketAddr;

    fn address(address: &SockAddr) -> Option<SocketAddr> {
        address.as_socket()
    }

    fn peer(stream: &Self::Stream) -> io::Result<SocketAddr> {
        stream.peer_addr()
    }
}

#[cfg(unix)]
impl StdListener for std::os::unix::net::UnixListener {
    type Stream = std::os::unix::net::UnixStream;
    type Address = UnixSocketAddr;

    /// A path, a name in the abstract namespace or none. `None` for a path that fills its field to the last byte, which std makes
    /// of no text.
    fn address(address: &SockAddr) -> Option<UnixSocketAddr> {
        #[cfg(upgrades)]
        if let Some(name) = address.as_abstract_namespace() {
            return <UnixSocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name).ok();
        }
        if address.is_unnamed() {
            // What std makes of an empty path is the address without a name.
            return UnixSocketAddr::from_pathname("").ok();
        }
        UnixSocketAddr::from_pathname(address.as_pathname()?).ok()
    }

    fn peer(stream: &Self::Stream) -> io::Result<UnixSocketAddr> {
        stream.peer_addr()
    }
}

/// A datagram socket of std.
pub(crate) trait StdDatagram: AsFd + From<OwnedFd> + Send + Sync + 'static {
    type Address;

    fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, Self::Address)>;
    fn send_to(&self, data: &[u8], target: &Self::Address) -> io::Result<usize>;
    fn local_addr(&self) -> io::Result<Self::Address>;
}

macro_rules! std_datagram {
    ($name:ty, $address:ty, $send:ident) => {
        impl StdDatagram for $name {
            type Address = $address;

            fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, $address)> {
                <$name>::recv_from(self, buffer)
            }

            fn send_to(&self, data: &[u8], target: &$address) -> io::Result<usize> {
                <$name>::$send(self, data, target)
            }

            fn local_addr(&self) -> io::Result<$address> {
                <$name>::local_addr(self)
            }
        }
    };
}

std_datagram!(std::net::UdpSocket, SocketAddr, send_to);
#[cfg(unix)]
std_datagram!(std::os::unix::net::UnixDatagram, UnixSocketAddr, send_to_addr);
