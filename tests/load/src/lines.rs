//! A client of a protocol whose request and answer are texts.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::Client;
use crate::loss::{bad, lost};

/// How long a connection is kept, as by the pools of clients whose protocol knows no notice.
const KEPT: Duration = Duration::from_millis(500);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for S {}

/// A client that leaves after half a second, and comes back, or one that never leaves.
pub struct Lines {
    server: Server,
    ask: &'static str,
    answer: &'static str,
    /// How long it keeps a connection.
    kept: Duration,
    stream: Option<(Box<dyn Stream>, Instant)>,
    connections: u32,
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
        Self { kept: self.kept, ..Self::new(self.server.clone(), self.ask, self.answer) }
    }
}

impl Lines {
    /// A client that is answered so when it asks so.
    pub fn tcp(server: SocketAddr, ask: &'static str, answer: &'static str) -> Self {
        Self::new(Server::Tcp(server), ask, answer)
    }

    /// The same at a path.
    pub fn unix(path: PathBuf, ask: &'static str, answer: &'static str) -> Self {
        Self::new(Server::Unix(path), ask, answer)
    }

    fn new(server: Server, ask: &'static str, answer: &'static str) -> Self {
        Self { server, ask, answer, kept: KEPT, stream: None, connections: 0 }
    }

    /// Keeps its connection for good: a connection that the service ends is a loss.
    pub fn stays(self) -> Self {
        Self { kept: Duration::MAX, ..self }
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.server {
            Server::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            Server::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

impl Client for Lines {
    async fn ask(&mut self) -> io::Result<()> {
        let kept = self.stream.take().filter(|(_, opened)| opened.elapsed() < self.kept);
        let (mut stream, opened) = match kept {
            Some(kept) => kept,
            None => {
                self.connections += 1;
                (self.connect().await.map_err(lost("connecting"))?, Instant::now())
            }
        };
        let lost = |error| lost(format!("{} ms after connecting", opened.elapsed().as_millis()))(error);
        stream.write_all(self.ask.as_bytes()).await.map_err(lost)?;
        let mut answer = vec![0; self.answer.len()];
        stream.read_exact(&mut answer).await.map_err(lost)?;
        if answer != self.answer.as_bytes() {
            return Err(bad(format!("the answer is {:?}", String::from_utf8_lossy(&answer))));
        }
        self.stream = Some((stream, opened));
        Ok(())
    }

    fn connections(&self) -> u32 {
        self.connections
    }
}
