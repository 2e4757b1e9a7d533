//! The streams that a drain waits for.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::between::drain::Guard;
use crate::between::managed::as_descriptor;
use crate::between::shared::Counted;
use crate::sys::fd;

macro_rules! counted_stream {
    ($(#[$doc:meta])* $name:ident, $std:ty) => {
        $(#[$doc])*
        ///
        /// It is the stream of std, by `Deref` and as `Read`, `Write` and `AsFd` (on Windows `AsSocket`), and one thing
        /// more: a drain waits until it and every clone of it is dropped.
        #[derive(Debug)]
        pub struct $name {
            io: $std,
            counted: Arc<Counted>,
        }

        impl $name {
            pub(super) fn new(io: $std, counted: Counted) -> Self {
                Self { io, counted: Arc::new(counted) }
            }

            /// dup(2): a second handle to the stream, counted as one with it.
            ///
            /// # Errors
            ///
            /// EMFILE.
            pub fn try_clone(&self) -> io::Result<Self> {
                Ok(Self { io: self.io.try_clone()?, counted: self.counted.clone() })
            }

            /// The stream of std, and the guard that a drain waits for.
            pub fn into_inner(self) -> ($std, Guard) {
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

        impl Read for &$name {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                (&self.io).read(buffer)
            }

            fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                (&self.io).read_vectored(buffers)
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
    TcpStream, std::net::TcpStream
}

#[cfg(unix)]
counted_stream! {
    /// A Unix stream that was accepted by a managed listener.
    UnixStream, std::os::unix::net::UnixStream
}
