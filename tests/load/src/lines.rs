//! A client of a protocol that asks by a text and is answered by a text.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::Client;

/// How long a connection is kept, as by the pools of clients whose protocol knows no notice.
const KEPT: Duration = Duration::from_millis(500);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A client that leaves after half a second, and comes back.
pub struct Lines {
    server: Server,
    ask: &'static str,
    answer: &'static str,
    stream: Option<(Box<dyn Stream>, Instant)>,
}

#[derive(Clone, Debug)]
enum Server {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Clone for Lines {
    fn clone(&self) -> Self {
        Self { server: self.server.clone(), stream: None, ..*self }
    }
}

impl Lines {
    /// A client that is answered so when it asks so.
    pub fn tcp(server: SocketAddr, ask: &'static str, answer: &'static str) -> Self {
        Self { server: Server::Tcp(server), ask, answer, stream: None }
    }

    /// The same at a path.
    pub fn unix(path: PathBuf, ask: &'static str, answer: &'static str) -> Self {
        Self { server: Server::Unix(path), ask, answer, stream: None }
    }
}

impl Client for Lines {
    async fn ask(&mut self) -> Result<(), String> {
        let kept = self.stream.take().filter(|(_, opened)| opened.elapsed() < KEPT);
        let (mut stream, opened) = match kept {
            Some(kept) => kept,
            None => {
                let stream: std::io::Result<Box<dyn Stream>> = match &self.server {
                    Server::Tcp(address) => {
                        TcpStream::connect(address).await.map(|stream| Box::new(stream) as _)
                    }
                    Server::Unix(path) => UnixStream::connect(path).await.map(|stream| Box::new(stream) as _),
                };
                (stream.map_err(|error| format!("connecting: {error}"))?, Instant::now())
            }
        };
        let lost = |error| format!("{error}, {} ms after connecting", opened.elapsed().as_millis());
        stream.write_all(self.ask.as_bytes()).await.map_err(lost)?;
        let mut answer = vec![0; self.answer.len()];
        stream.read_exact(&mut answer).await.map_err(lost)?;
        if answer != self.answer.as_bytes() {
            return Err(format!("the answer is {:?}", String::from_utf8_lossy(&answer)));
        }
        self.stream = Some((stream, opened));
        Ok(())
    }
}
