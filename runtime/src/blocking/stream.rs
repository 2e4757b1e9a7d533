//! The streams that a drain waits for.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

use crate::base::sync::lock;
use crate::between::drain::{Guard, Shutdown};
use crate::between::managed::{self, Ending, Unread, as_descriptor};
use crate::between::shared::Counted;
use crate::moving::session::Session;
use crate::sys::fd::{self, OwnedFd};

pub(super) mod sealed {
    use super::{Counted, OwnedFd, io};

    /// A stream that can come from another process.
    pub(crate) trait Moved: Sized {
        fn moved(fd: OwnedFd, counted: Counted, unread: Vec<u8>) -> io::Result<Self>;
    }
}

/// Why the wait of a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// There is something to read, or the stream has ended.
    Readable,
    /// This process is replaced or stopped.
    Shutdown,
}

macro_rules! counted_stream {
    ($(#[$doc:meta])* $name:ident, $std:ty, $peer:expr) => {
        $(#[$doc])*
        ///
        /// It is the stream of std, by `Deref` and as `Read`, `Write` and `AsFd` (on Windows `AsSocket`), and one thing
        /// more: a drain waits until it and every clone of it is dropped.
        #[derive(Debug)]
        pub struct $name {
            // Before the stream: it ends a connection that is open.
            ending: Ending,
            io: $std,
            counted: Arc<Counted>,
            /// `None` for a connection that did not move here.
            unread: Option<Arc<Mutex<Unread>>>,
        }

        impl $name {
            pub(super) fn new(io: $std, counted: Counted) -> Self {
                Self { ending: Ending::NONE, io, counted: Arc::new(counted), unread: None }
            }

            /// dup(2): a second handle to the stream, counted as one with it.
            ///
            /// # Errors
            ///
            /// EMFILE.
            pub fn try_clone(&self) -> io::Result<Self> {
                let (counted, unread) = (self.counted.clone(), self.unread.clone());
                Ok(Self { ending: self.ending.clone(), io: self.io.try_clone()?, counted, unread })
            }

            /// Waits until there is something to read, or this process is replaced or stopped: a read of std knows nothing of a drain.
            ///
            /// If both are true, the answer is [`Woken::Shutdown`]: what has arrived can be read by the successor, after
            /// [`hand_over`](Self::hand_over). The end of the stream is something to read. On a platform without upgrades it waits only
            /// for something to read.
            ///
            /// # Errors
            ///
            /// EMFILE or ENOMEM, at the first wait of the process.
            pub fn wait(&self, shutdown: &Shutdown) -> io::Result<Woken> {
                if shutdown.is_raised() {
                    return Ok(Woken::Shutdown);
                }
                if !self.rest().is_empty() {
                    return Ok(Woken::Readable);
                }
                let is_raised = shutdown.raised_or_readable(fd::borrow(&self.io))?;
                Ok(if is_raised { Woken::Shutdown } else { Woken::Readable })
            }

            /// Hands the connection over to the successor, which goes on where this process stops. Its client notices nothing.
            ///
            /// Call it at a boundary of the protocol, once [`wait`](Self::wait) has answered [`Woken::Shutdown`]. `Ok` means that the
            /// successor has the connection. `Err` gives the stream back, with every byte that was unread: this process goes on with
            /// it, and says goodbye as its protocol does. The stream comes back at once if nothing is to move: this process is not
            /// replaced, or the service stops, or the successor does not take this kind of connection at this listener, or a clone of
            /// the stream is alive. It comes back within about a second if the successor does not answer.
            ///
            /// # Errors
            ///
            /// The stream, which this process keeps.
            pub fn hand_over(mut self, mut session: Session) -> Result<(), Self> {
                session.unread.extend_from_slice(&self.rest());
                self.unread = Some(Arc::new(Mutex::new(Unread::from(session.unread.clone()))));
                if Arc::strong_count(&self.counted) > 1 {
                    return Err(self);
                }
                std::mem::replace(&mut self.ending, Ending::NONE).forget();
                let peer = ($peer)(&self.io);
                let io = Arc::new(self);
                let Some(verdict) = managed::offer(&io.counted, io.clone(), session, peer) else {
                    return Err(Arc::into_inner(io).expect("nobody else has it"));
                };
                if *verdict.wait_blocking() {
                    return Ok(());
                }
                let mut stream = Arc::into_inner(io).expect("the link has let go of it before its verdict");
                stream.ending = Ending::of(&stream.io);
                Err(stream)
            }

            /// The bytes that another process has read of the connection and that this one has not read yet. As `Read` the stream gives
            /// them first. The methods of std's stream, such as `peek`, do not know them: take them before.
            pub fn take_unread(&mut self) -> Vec<u8> {
                let rest = self.rest();
                self.unread = None;
                rest
            }

            fn rest(&self) -> Vec<u8> {
                self.unread.as_ref().map(|unread| lock(unread).rest().to_vec()).unwrap_or_default()
            }

            /// The stream of std, and the guard that a drain waits for. Of a stream that moved here, [take the unread
            /// bytes](Self::take_unread) before.
            pub fn into_inner(self) -> ($std, Guard) {
                self.ending.forget();
                (self.io, Guard::of(self.counted))
            }
        }

        impl Deref for $name {
            type Target = $std;

            fn deref(&self) -> &$std {
                &self.io
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut $std {
                &mut self.io
            }
        }

        as_descriptor! { [] $name, |this| fd::borrow(&this.io) }

        impl sealed::Moved for $name {
            fn moved(fd: OwnedFd, counted: Counted, unread: Vec<u8>) -> io::Result<Self> {
                let io = <$std>::from(fd);
                // The flag belongs to the connection, and a stream of tokio has it.
                io.set_nonblocking(false)?;
                let unread = Some(Arc::new(Mutex::new(Unread::from(unread))));
                Ok(Self { ending: Ending::NONE, io, counted: Arc::new(counted), unread })
            }
        }

        impl Read for &$name {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.unread.as_ref().map_or(0, |unread| lock(unread).read_into(buffer)) {
                    0 => (&self.io).read(buffer),
                    read => Ok(read),
                }
            }

            fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                let first = buffers.iter_mut().find(|buffer| !buffer.is_empty());
                let unread = self.unread.as_ref().zip(first);
                match unread.map_or(0, |(unread, buffer)| lock(unread).read_into(buffer)) {
                    0 => (&self.io).read_vectored(buffers),
                    read => Ok(read),
                }
            }
        }

        impl Write for &$name {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                (&self.io).write(data)
            }

            fn write_vectored(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
                (&self.io).write_vectored(data)
            }

            fn flush(&mut self) -> io::Result<()> {
                (&self.io).flush()
            }
        }

        impl Read for $name {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                (&*self).read(buffer)
            }

            fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                (&*self).read_vectored(buffers)
            }
        }

        impl Write for $name {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                (&*self).write(data)
            }

            fn write_vectored(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
                (&*self).write_vectored(data)
            }

            fn flush(&mut self) -> io::Result<()> {
                (&*self).flush()
            }
        }
    };
}

counted_stream! {
    /// A TCP stream that was accepted by a managed listener.
    TcpStream, std::net::TcpStream, |stream: &std::net::TcpStream| stream.peer_addr().ok()
}

#[cfg(unix)]
counted_stream! {
    /// A Unix stream that was accepted by a managed listener.
    UnixStream, std::os::unix::net::UnixStream, |_: &std::os::unix::net::UnixStream| None
}
