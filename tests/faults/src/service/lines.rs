//! The connections of the service that move in an upgrade. Each line is answered with the process, the number of the line in its
//! connection, and the line itself. The number is the state: it goes on in the successor.

use std::io;
use std::process;

use tableflip::net::{Offer, TcpStream};
use tableflip::{Session, Shutdown};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::select;

/// The kind of these connections.
pub(crate) const KIND: &str = "lines/1";
/// What a process says, after its number, to a connection that it ends.
pub(crate) const GOODBYE: &str = "bye";
/// A line that begins so makes the state of its connection longer than what a packet carries.
pub(crate) const LONG: &str = "long";

const LONG_STATE: usize = 40_000;

/// What this process knows of a connection.
#[derive(Clone, Copy, Default)]
pub(crate) struct State {
    count: u64,
    is_long: bool,
}

impl State {
    fn to_bytes(self) -> Vec<u8> {
        let mut state = self.count.to_le_bytes().to_vec();
        state.resize(if self.is_long { LONG_STATE } else { state.len() }, b'.');
        state
    }

    fn of(state: &[u8]) -> Option<Self> {
        let (count, rest) = state.split_first_chunk()?;
        Some(Self { count: u64::from_le_bytes(*count), is_long: !rest.is_empty() })
    }
}

/// Takes a connection of the predecessor, and serves it. One that the predecessor has taken back is its own.
pub(crate) async fn resume(offer: Offer<TcpStream>, shutdown: Shutdown) -> io::Result<()> {
    let state = State::of(offer.state()).expect("the predecessor is of the same release");
    serve(offer.take().await?, state, shutdown).await
}

pub(crate) async fn serve(stream: TcpStream, mut state: State, mut shutdown: Shutdown) -> io::Result<()> {
    let me = process::id();
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        select! {
            biased;
            () = &mut shutdown => break,
            read = stream.read_until(b'\n', &mut line) => if read? == 0 { return Ok(()) },
        }
        if line.last() != Some(&b'\n') {
            // The client has closed the connection in the middle of a line.
            return Ok(());
        }
        state.count += 1;
        state.is_long |= line.starts_with(LONG.as_bytes());
        let answer = [format!("{me} {} ", state.count).as_bytes(), &line].concat();
        line.clear();
        stream.get_mut().write_all(&answer).await?;
    }
    let unread = [&line[..], stream.buffer()].concat();
    let session = Session::new(KIND).state(state.to_bytes()).unread(unread.clone());
    let Err(mut stream) = stream.into_inner().hand_over(session).await else { return Ok(()) };
    let mut again = vec![0; unread.len()];
    stream.read_exact(&mut again).await?;
    assert_eq!(again, unread, "a connection that stays gives what was read of it once more");
    stream.write_all(format!("{me} {GOODBYE}\n").as_bytes()).await
}
