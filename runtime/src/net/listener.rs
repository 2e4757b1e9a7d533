//! The managed listeners.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;

use super::gated::Acceptor;
use super::stream::TcpStream;
#[cfg(unix)]
use super::stream::UnixStream;
#[cfg(feature = "http")]
use crate::between::drain::Shutdown;
use crate::between::managed::managed_type;

macro_rules! managed {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $stream:ident, $std:ty, $addr:ty) => {
        managed_type! {
            $(#[$doc])*
            ///
            /// The first call of [`accept`](Self::accept) tells that the service is ready to serve it. Accepting begins
            /// once the service is active, pauses while a successor is on probation, and ends when this process drains:
            /// from then on `accept` is pending for ever, and the process exits when its connections are finished.
            $name, $kind, acceptor: Acceptor<$std>, $addr,
            /// `NotConnected` once this process has given the listener up for good.
        }

        impl $name {
            /// accept(2): the next connection and the address of its peer.
            ///
            /// Connections that died in the queue are passed over. While the process or the machine is out of
            /// descriptors or memory the queue waits. An accepted connection is closed if the kernel has no memory
            /// for its registration, epoll_ctl(2). It is cancel safe, and any number of tasks may wait at once.
            ///
            /// # Errors
            ///
            /// Only an error that makes the listener useless, such as EBADF.
            pub async fn accept(&self) -> io::Result<($stream, $addr)> {
                let (stream, peer, counted) = self.acceptor.accept().await?;
                Ok(($stream::new(stream, counted), peer))
            }

            /// Reports an accept that failed, of a caller that tries again.
            #[cfg(feature = "axum")]
            pub(crate) fn complain(&self, error: &io::Error) {
                self.acceptor.gate.complain(error);
            }

            #[cfg(feature = "http")]
            pub(crate) fn shutdown(&self) -> Shutdown {
                Shutdown::new(self.acceptor.gate.shared().clone())
            }
        }
    };
}

managed! {
    /// A managed TCP listener.
    TcpListener, Tcp, TcpStream, std::net::TcpListener, SocketAddr
}

#[cfg(unix)]
managed! {
    /// A managed listener for Unix stream sockets.
    UnixListener, Unix, UnixStream, std::os::unix::net::UnixListener, UnixSocketAddr
}
