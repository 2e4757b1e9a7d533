//! The managed types: listeners that stop handing out connections when the service is replaced, and streams that a
//! drain waits for.

mod listener;
mod stream;

pub use listener::{TcpListener, UnixListener};
pub use stream::{OwnedReadHalf, OwnedWriteHalf, TcpStream, UnixStream};
