//! The outcome of every request.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::watch, time::Instant};

use super::client::{Exchange, Loss};

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// When the schedule wanted it sent. Latency counts from here, so that a stall of the server shows in every
    /// request that it held up and not just in the one that met it.
    pub(crate) due: Instant,
    pub(crate) answered: Instant,
    /// When its connection was asked for, if it was the first on it.
    pub(crate) opened: Option<Instant>,
    /// It was to be answered at once. Any other says nothing about latency.
    pub(crate) quick: bool,
    pub(crate) generation: u64,
    pub(crate) pid: u32,
}

/// A request that was not.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    /// When the schedule wanted it sent. A connection that could not be opened ahead of its request has no such time.
    pub(crate) due: Option<Instant>,
    pub(crate) at: Instant,
    pub(crate) loss: Loss,
}

/// A keep-alive connection that was answered on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) opened: Instant,
    /// When it was found closed, or was given up. `None` if it was there at the end of the run.
    pub(crate) ended: Option<Instant>,
}

/// The first answer of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    pub(crate) at: Instant,
}

/// All the answers and losses of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) samples: Vec<Sample>,
    pub(crate) lost: Vec<Lost>,
    /// Keep-alive connections that the server ended by `Connection: close` in an answer.
    pub(crate) told_to_close: u64,
    /// Keep-alive connections that were found closed before the next request.
    pub(crate) found_closed: u64,
    /// In the order in which they ended.
    pub(crate) kept: Vec<Kept>,
    pub(crate) firsts: BTreeMap<u64, First>,
}

impl Counts {
    /// How many new connections an old process served although its successor had answered before they were
    /// opened. The predecessor stops accepting before the successor begins, so there must be none.
    pub(crate) fn stale(&self) -> usize {
        let superseded = |generation: u64, opened: Instant| {
            self.firsts.range(generation + 1..).any(|(_, first)| first.at < opened)
        };
        self.samples
            .iter()
            .filter(|sample| sample.opened.is_some_and(|opened| superseded(sample.generation, opened)))
            .count()
    }

    /// How many keep-alive connections were open at `first`, and how many of these were open at `last` too.
    pub(crate) fn stayed(&self, first: Instant, last: Instant) -> (usize, usize) {
        let open: Vec<_> = self.kept.iter().filter(|kept| kept.is_open_at(first)).collect();
        (open.len(), open.iter().filter(|kept| kept.is_open_at(last)).count())
    }
}

impl Kept {
    fn is_open_at(&self, at: Instant) -> bool {
        self.opened <= at && self.ended.is_none_or(|ended| ended > at)
    }
}

/// Where the connections write down what they see, and where the upgrades learn who answers.
#[derive(Debug)]
pub(crate) struct Tally {
    counts: Mutex<Counts>,
    newest: watch::Sender<Option<First>>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self { counts: Mutex::default(), newest: watch::Sender::new(None) }
    }

    /// Takes down an exchange that the schedule wanted at `due`.
    pub(crate) fn record(&self, due: Instant, quick: bool, keep_alive: bool, exchange: Exchange) {
        let now = Instant::now();
        let mut counts = self.lock();
        match exchange.result {
            Ok(answer) => {
                let (generation, pid) = (answer.generation, answer.pid);
                counts.told_to_close += u64::from(keep_alive && answer.close);
                let opened = exchange.opened;
                counts.samples.push(Sample { due, answered: now, opened, quick, generation, pid });
                let first = First { generation, pid, at: now };
                counts.firsts.entry(generation).or_insert(first);
                drop(counts);
                self.newest.send_if_modified(|newest| {
                    let newer = newest.is_none_or(|known| known.generation < generation);
                    if newer {
                        *newest = Some(first);
                    }
                    newer
                });
            }
            Err(loss) => {
                counts.lost.push(Lost { due: Some(due), at: now, loss });
            }
        }
    }

    /// Takes down a connection that could not be opened ahead of its request.
    pub(crate) fn record_lost(&self, loss: Loss) {
        self.lock().lost.push(Lost { due: None, at: Instant::now(), loss });
    }

    /// Takes down that a keep-alive connection was given up because the server had closed it.
    pub(crate) fn record_closed(&self) {
        self.lock().found_closed += 1;
    }

    /// Takes down a keep-alive connection that is needed no more.
    pub(crate) fn record_kept(&self, kept: Kept) {
        self.lock().kept.push(kept);
    }

    /// Waits for an answer of a generation above `generation`.
    pub(crate) async fn newer_than(&self, generation: u64) -> First {
        let mut newest = self.newest.subscribe();
        loop {
            if let Some(first) = *newest.borrow_and_update() {
                if first.generation > generation {
                    return first;
                }
            }
            if newest.changed().await.is_err() {
                unreachable!("the sender is a field of self");
            }
        }
    }

    /// Requests answered and requests lost so far.
    pub(crate) fn progress(&self) -> (usize, usize) {
        let counts = self.lock();
        (counts.samples.len(), counts.lost.len())
    }

    /// Everything so far, leaving nothing.
    pub(crate) fn take(&self) -> Counts {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Whoever panicked in here has pushed a sample or has not; the rest is sound.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::run::client::Answer;

    fn exchange(generation: u64, opened: Option<Instant>) -> Exchange {
        let answer = Answer { generation, pid: 100 + generation as u32, close: false };
        Exchange { opened, result: Ok(answer) }
    }

    #[test]
    fn a_connection_that_an_old_process_accepts_after_its_successor_answered_is_stale() {
        let tally = Tally::new();
        let start = Instant::now();
        tally.record(start, true, true, exchange(1, Some(start)));
        tally.record(start, true, true, exchange(2, Some(start)));
        // Opened before the successor's first answer, answered by the old process after it: that is a drain.
        tally.record(start, true, true, exchange(1, Some(start)));
        // A request on a connection that is already open may go to the old process as long as it drains.
        tally.record(start, true, true, exchange(1, None));
        assert_eq!(tally.lock().stale(), 0);

        let later = Instant::now() + Duration::from_secs(1);
        tally.record(later, true, true, exchange(1, Some(later)));
        assert_eq!(tally.lock().stale(), 1);
    }

    #[tokio::test]
    async fn the_first_answer_of_a_generation_is_announced_once() {
        let tally = Tally::new();
        let start = Instant::now();
        tally.record(start, true, false, exchange(1, Some(start)));
        let first = tally.newer_than(0).await;
        assert_eq!((first.generation, first.pid), (1, 101));

        tally.record(start, true, false, exchange(2, Some(start)));
        tally.record(start, true, false, exchange(1, Some(start)));
        let second = tally.newer_than(1).await;
        assert_eq!((second.generation, second.pid), (2, 102));
        assert_eq!(tally.take().firsts[&2], second);
    }
}
