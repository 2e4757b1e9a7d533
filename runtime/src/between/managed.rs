//! What every managed type has, of `net` and of `blocking`.

use std::fmt;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex};

use socket2::SockRef;

use crate::base::sync::lock;
use crate::between::shared::Counted;
#[cfg(any(feature = "tokio", not(upgrades)))]
use crate::between::{gate::Gate, params::ListenerSocket};
use crate::moving::giving::{Io, Verdict};
use crate::moving::session::Session;
use crate::sys::fd::{self, AsFd, BorrowedFd, OwnedFd, is_broken};

/// The gate of a listener, which the engine controls from now on.
#[cfg(any(feature = "tokio", not(upgrades)))]
pub(crate) fn gated<T: Send + Sync + 'static>(socket: ListenerSocket<'_>, io: Arc<T>) -> Arc<Gate<T>> {
    let gate = Arc::new(Gate::new(socket.name().to_owned(), socket.shared().clone(), io));
    socket.register(gate.clone());
    gate
}

/// The socket of a managed listener, for socket options and for system calls of your own. It is `AsFd`, on Windows
/// `AsSocket`, so `socket2::SockRef::from(&listener.socket()?)` has the options.
///
/// It keeps the socket open until it is dropped, so drop it soon. A process closes its listener at a drain while the
/// managed listener lives on. Meanwhile clients would wait in the queue of a socket that stays open. This is why the managed
/// listener itself is not `AsFd`.
///
/// An accept from it, or a change of O_NONBLOCK, bypasses the upgrade: see [`ListenerSocket`](crate::ListenerSocket).
#[must_use = "it only keeps the socket open"]
pub struct ListeningSocket {
    socket: Arc<dyn AsFd + Send + Sync>,
}

impl ListeningSocket {
    pub(crate) fn new(socket: Arc<impl AsFd + Send + Sync + 'static>) -> Self {
        Self { socket }
    }

    fn borrow(&self) -> BorrowedFd<'_> {
        fd::borrow(&*self.socket)
    }
}

impl fmt::Debug for ListeningSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListeningSocket").field(&self.borrow()).finish()
    }
}

/// The bytes of a stream that moved here, which another process has read. They are read first.
#[derive(Default)]
pub(crate) struct Unread {
    bytes: Vec<u8>,
    /// How many of them are read by now.
    read: usize,
}

impl From<Vec<u8>> for Unread {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, read: 0 }
    }
}

impl Unread {
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.read..]
    }

    /// The next bytes are read. The memory is given back with the last one.
    pub(crate) fn advance(&mut self, count: usize) {
        self.read += count;
        if self.read == self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Reads the next bytes into a buffer, and returns how many.
    pub(crate) fn read_into(&mut self, buffer: &mut [u8]) -> usize {
        let rest = self.rest();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.advance(count);
        count
    }

    /// Appends bytes that are read after those that are here.
    #[cfg(feature = "websocket")]
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes that are not read yet.
    #[cfg(feature = "websocket")]
    pub(crate) fn into_rest(mut self) -> Vec<u8> {
        if self.read == 0 { self.bytes } else { self.bytes.split_off(self.read) }
    }
}

impl fmt::Debug for Unread {
    /// Without the bytes, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.rest().len())
    }
}

/// Ends a connection with the last handle to its stream, shutdown(2). It belongs to a stream that was offered to the successor and
/// has stayed: a successor that is stopped has a descriptor as well, and without this its client would wait for the end.
#[derive(Clone, Debug)]
pub(crate) struct Ending(Option<Arc<EndsWithDrop>>);

#[derive(Debug)]
struct EndsWithDrop {
    /// `None` once nothing is to end.
    socket: Mutex<Option<OwnedFd>>,
}

impl Ending {
    /// Of a stream that this process alone has.
    pub(crate) const NONE: Self = Self(None);

    /// Of a stream that has stayed. A process without descriptors left has none: then its successor ends the connection as well,
    /// once it goes on.
    pub(crate) fn of(stream: &(impl AsFd + ?Sized)) -> Self {
        let socket = fd::borrow(stream).try_clone_to_owned().ok();
        Self(socket.map(|socket| Arc::new(EndsWithDrop { socket: Mutex::new(Some(socket)) })))
    }

    /// The connection outlives the stream.
    pub(crate) fn forget(self) {
        if let Some(ends) = &self.0 {
            drop(lock(&ends.socket).take());
        }
    }
}

impl Drop for EndsWithDrop {
    fn drop(&mut self) {
        if let Some(socket) = lock(&self.socket).take() {
            // One that the client has ended needs no end.
            match SockRef::from(&socket).shutdown(Shutdown::Both) {
                Ok(()) | Err(_) => {}
            }
        }
    }
}

/// What a stream that is offered to the successor is, for its process.
pub(crate) fn offer(
    counted: &Counted,
    io: Io,
    session: Session,
    peer: Option<SocketAddr>,
) -> Option<Verdict> {
    // A connection that has failed has nothing to move, and its error is for the body.
    if is_broken(&*io) {
        return None;
    }
    counted.shared().moving.giving.offer(counted.listener(), io, session, peer)
}

/// The descriptor of a type, borrowed from what is open for as long as the value is.
macro_rules! as_descriptor {
    ([$($generics:tt)*] $type:ty, |$this:ident| $borrowed:expr) => {
        #[cfg(unix)]
        impl<$($generics)*> std::os::fd::AsFd for $type {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                let $this = self;
                $borrowed
            }
        }

        #[cfg(unix)]
        impl<$($generics)*> std::os::fd::AsRawFd for $type {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                std::os::fd::AsFd::as_fd(self).as_raw_fd()
            }
        }

        #[cfg(windows)]
        impl<$($generics)*> std::os::windows::io::AsSocket for $type {
            fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
                let $this = self;
                $borrowed
            }
        }

        #[cfg(windows)]
        impl<$($generics)*> std::os::windows::io::AsRawSocket for $type {
            fn as_raw_socket(&self) -> std::os::windows::io::RawSocket {
                std::os::windows::io::AsSocket::as_socket(self).as_raw_socket()
            }
        }
    };
}

pub(crate) use as_descriptor;

as_descriptor! { [] ListeningSocket, |this| this.borrow() }

/// A type that a body takes as a listener. `$part` does the work: it is made of a [`ListenerSocket`], and has a `local_addr`.
/// The module above has the constant `BODY`.
/// `$own` belongs to one handle, and a clone has a new one.
///
/// [`ListenerSocket`]: crate::between::params::ListenerSocket
macro_rules! managed_type {
    (
        $(#[$doc:meta])* $name:ident, $kind:ident, $part:ident: $type:ty $(; $own:ident: $own_type:ty)?, $address:ty,
        $(#[$error:meta])*
    ) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name {
            $part: std::sync::Arc<$type>,
            $($own: $own_type,)?
        }

        impl $name {
            /// getsockname(2): the address that it is bound to.
            ///
            /// # Errors
            ///
            $(#[$error])*
            pub fn local_addr(&self) -> std::io::Result<$address> {
                self.$part.local_addr()
            }
        }

        impl crate::between::params::FromListener for $name {
            const MANAGED: bool = true;
            const KINDS: &'static [crate::base::address::Kind] = &[crate::base::address::Kind::$kind];
            const BODY: crate::between::params::BodyKind = super::BODY;

            fn from_listener(socket: crate::between::params::ListenerSocket<'_>) -> std::io::Result<Self> {
                Ok(Self {
                    $part: std::sync::Arc::new(<$type>::new(socket)?),
                    $($own: <$own_type>::default(),)?
                })
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("local_addr", &self.local_addr().ok()).finish()
            }
        }
    };
}

pub(crate) use managed_type;

#[cfg(all(test, unix))]
mod tests {
    use std::io::{self, Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// What the other side sees of a connection that two processes have, after the drop of an ending in one of them.
    fn seen_after(drop: impl FnOnce(Ending)) -> io::Result<usize> {
        let (mut client, mut stream) = UnixStream::pair().unwrap();
        let _of_the_successor = stream.try_clone().unwrap();
        stream.write_all(b"bye").unwrap();
        drop(Ending::of(&stream));
        client.set_nonblocking(true).unwrap();
        client.read_exact(&mut [0; 3]).unwrap();
        client.read(&mut [0])
    }

    #[test]
    fn a_connection_ends_with_the_last_handle_unless_it_outlives_the_stream() {
        assert_eq!(seen_after(drop).unwrap(), 0);
        let of_clones = |ending: Ending| {
            let clone = ending.clone();
            drop(ending);
            std::mem::forget(clone);
        };
        for stays in [of_clones, Ending::forget] {
            assert_eq!(seen_after(stays).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }
}
