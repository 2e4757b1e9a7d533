//! The interface of a client, and the outcome of its requests: the same for every protocol.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

pub(crate) use self::{http::Http, other::Other};

mod http;
mod other;

/// A close that is seen later than this after a request cannot have crossed it on the way. Over loopback there and back
/// takes some 0.1 ms; the rest is for a machine with too few processors.
const CROSSING: Duration = Duration::from_millis(20);

/// Who sends the requests of the schedule. A clone is as good as it.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    /// A connection that is kept.
    type Kept: Send;

    /// Opens a connection that is not needed yet, if that can be done. Where it fails that is a loss already.
    fn open(&self, slot: &mut Option<Self::Kept>) -> impl Future<Output = Result<(), Loss>> + Send;

    /// Gives up the connection in `slot` if the server has closed it, and says whether it did.
    fn give_up_closed(&self, slot: &mut Option<Self::Kept>) -> bool;

    /// Sends one request, on the connection in `slot` or else on a new one, and leaves the connection there if it is
    /// to be kept and can be used again. A slow one is answered after a while, by a service that has such an answer.
    fn exchange(
        &self,
        slot: &mut Option<Self::Kept>,
        slow: bool,
        keep_alive: bool,
    ) -> impl Future<Output = Exchange> + Send;
}

/// Generation and process that serve, of a service whose answers do not say it.
#[derive(Clone, Debug)]
pub(crate) struct Named(Arc<Mutex<(u64, u32)>>);

impl Named {
    pub(crate) fn new(pid: u32) -> Self {
        Self(Arc::new(Mutex::new((1, pid))))
    }

    pub(crate) fn set(&self, generation: u64, pid: u32) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (generation, pid);
    }

    /// Who will answer on a connection that is opened from now on. Where it is asked for before the connection is, a
    /// predecessor may be named for its successor, and never the other way round.
    fn get(&self) -> (u64, u32) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a request was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Nobody listens.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection ended before the answer did.
    EndOfFile,
    /// There was no complete answer in time.
    Timeout,
    /// What came is not an answer of `hello`.
    BadAnswer,
    /// The client's own trouble, such as too few descriptors or ports. The request counts as lost all the same:
    /// nobody knows what would have become of it.
    Client,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Refused, Self::Reset, Self::EndOfFile, Self::Timeout, Self::BadAnswer, Self::Client];

    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            // A write after the reset is told about it by EPIPE.
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Self::Reset
            }
            io::ErrorKind::UnexpectedEof => Self::EndOfFile,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::InvalidData => Self::BadAnswer,
            _ => Self::Client,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::EndOfFile => "end of file",
            Self::Timeout => "timeout",
            Self::BadAnswer => "bad answer",
            Self::Client => "client error",
        })
    }
}

/// Where a request was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// It was the first on its connection, which was refused, or came to nothing before a byte of an answer.
    NewConnection,
    /// The server was at work on it: the connection failed within the answer, or long enough after the request
    /// for the server to have read it.
    InFlight,
    /// It was written on a connection that had served requests before, and that the server closed at that
    /// moment without having said `Connection: close`.
    CrossingClose,
}

impl Place {
    pub(crate) const ALL: [Self; 3] = [Self::NewConnection, Self::InFlight, Self::CrossingClose];
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NewConnection => "on a new connection",
            Self::InFlight => "in flight",
            Self::CrossingClose => "crossing the close of a keep-alive connection",
        })
    }
}

/// A request without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    /// In words: the error, and what was done when it came.
    pub(crate) detail: String,
    /// The process that answered on this connection before, if any did.
    pub(crate) last_pid: Option<u32>,
}

/// What `hello` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// The server said `Connection: close`.
    pub(crate) close: bool,
}

/// What became of one request.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// When the connection was asked for, if the request was the first on it.
    pub(crate) opened: Option<Instant>,
    pub(crate) result: Result<Answer, Loss>,
}
