//! The managed listeners as listeners of `axum::serve` (feature `axum-08`).
//!
//! `axum::serve(listener, app).with_graceful_shutdown(shutdown)` closes idle connections at the drain. A request that
//! crosses that close is lost. `tableflip::http::serve(listener, app)` loses none.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::time::Duration;

use axum::serve::Listener;

use crate::net::{TcpListener, TcpStream};
#[cfg(unix)]
use crate::net::{UnixListener, UnixStream};

/// The pause after an error of accept. The listener then tries again, because `axum::serve` cannot end with an error.
const PAUSE: Duration = Duration::from_secs(1);

macro_rules! listener {
    ($listener:ty, $stream:ty, $addr:ty) => {
        impl Listener for $listener {
            type Io = $stream;
            type Addr = $addr;

            async fn accept(&mut self) -> ($stream, $addr) {
                loop {
                    match <$listener>::accept(self).await {
                        Ok(accepted) => return accepted,
                        Err(error) => {
                            self.complain(&error);
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                }
            }

            fn local_addr(&self) -> io::Result<$addr> {
                <$listener>::local_addr(self)
            }
        }
    };
}

listener!(TcpListener, TcpStream, SocketAddr);
#[cfg(unix)]
listener!(UnixListener, UnixStream, UnixSocketAddr);
