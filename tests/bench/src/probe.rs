//! One upgrade, seen by a client that asks without pause which process serves.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use processes::Signal;

use crate::process::{PATIENCE, Service};
use crate::{Result, clock};

/// What the measured service answers to every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// When its `main` was entered, by [`clock::now`].
    pub(crate) entered: Duration,
    /// When its body was polled for the first time.
    pub(crate) body: Duration,
    /// When it accepted this connection.
    pub(crate) accepted: Duration,
    /// It knows that its predecessor has ended, and has let go of it.
    pub(crate) is_alone: bool,
}

impl Answer {
    pub(crate) const SIZE: usize = 6 * 8;

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let stamps = [self.entered, self.body, self.accepted].map(|stamp| stamp.as_nanos() as u64);
        let [entered, body, accepted] = stamps;
        let words = [self.generation, self.pid.into(), entered, body, accepted, self.is_alone.into()];
        let mut bytes = [0; Self::SIZE];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[at * 8 + byte]));
        let stamp = |at| Duration::from_nanos(word(at));
        Self {
            generation: word(0),
            pid: word(1) as u32,
            entered: stamp(2),
            body: stamp(3),
            accepted: stamp(4),
            is_alone: word(5) != 0,
        }
    }

    /// Connects, and reads the answer.
    pub(crate) fn of(address: SocketAddr) -> Result<Self> {
        let mut bytes = [0; Self::SIZE];
        let mut stream = TcpStream::connect(address)?;
        stream.read_exact(&mut bytes)?;
        Ok(Self::from_bytes(bytes))
    }
}

/// How long one upgrade took, and its parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upgrade {
    /// From the signal to the first answer from the successor.
    pub(crate) total: Duration,
    /// To its `main`: the old process wakes up and spawns; exec and the dynamic linker.
    pub(crate) to_main: Duration,
    /// To its body: the offer, the listeners, tokio.
    pub(crate) to_body: Duration,
    /// To its first accept: prepared, pause, commit.
    pub(crate) to_accept: Duration,
    /// To the answer in the hands of the client.
    pub(crate) to_answer: Duration,
    /// From that answer to the end of the old process, which has nothing open: its probation is among it.
    pub(crate) to_end: Duration,
}

/// Upgrades a service of the kind `probe`, and waits until the old process has ended and the new one knows it:
/// before that a further upgrade is refused.
pub(crate) fn upgrade(service: &mut Service) -> Result<Upgrade> {
    let before = Answer::of(service.address())?.generation;
    let signalled = clock::now();
    let deadline = Instant::now() + PATIENCE;
    service.process().signal(Signal::HUP)?;
    let (answer, answered) = loop {
        let answer = Answer::of(service.address())?;
        let answered = clock::now();
        if answer.generation > before {
            break (answer, answered);
        }
        if Instant::now() > deadline {
            return Err(format!("no answer from a successor of generation {before}").into());
        }
    };
    service.follow(answer.pid)?;
    let ended = clock::now();
    while !Answer::of(service.address())?.is_alone {
        if Instant::now() > deadline {
            return Err("the successor does not notice the end of its predecessor".into());
        }
    }
    Ok(Upgrade {
        total: answered - signalled,
        to_main: answer.entered.saturating_sub(signalled),
        to_body: answer.body.saturating_sub(answer.entered),
        to_accept: answer.accepted.saturating_sub(answer.body),
        to_answer: answered.saturating_sub(answer.accepted),
        to_end: ended.saturating_sub(answered),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_the_wire() {
        let stamp = Duration::from_nanos;
        let (entered, body, accepted) = (stamp(1), stamp(2), stamp(3));
        let answer = Answer { generation: 7, pid: 42, entered, body, accepted, is_alone: true };
        assert_eq!(Answer::from_bytes(answer.to_bytes()), answer);
    }
}
