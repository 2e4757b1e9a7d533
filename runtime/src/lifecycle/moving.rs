//! The owner of a connection that moves to the successor, as two pure machines: the two ends of a *link*.
//!
//! A link is a pair of sockets that keep the bounds and the order of messages, unix(7) SOCK_SEQPACKET. The *giver* is the
//! predecessor: it offers connections, each with its descriptor. The *taker* is the successor: it answers each offer. From the
//! offer to the verdict both processes have the descriptor, and neither of them reads, writes or ends the connection. Then exactly
//! one of them owns it:
//!
//! * The taker owns a connection from the moment at which its answer `taken` is in the link.
//! * The giver owns a connection again if the offer could not be sent, if it was refused, or if it was withdrawn.
//!
//! The giver withdraws in four steps: shutdown(2) of its end for reading, so that the taker cannot send any more; it reads every
//! answer that is in the link; it sends `withdrawn`; only then it touches a connection. None of these steps waits for the taker.
//!
//! A taker that cannot send `taken` does not know why: the giver may be dead, or may be about to withdraw. The link says it, because
//! the messages outlive their sender. So the taker reads the link to its end: what was not withdrawn is its own.
//!
//! A process that has closed its end by mistake cannot hear the verdict. The taker then drops what it holds, and the giver keeps it.
//! The giver then lets go of what it has offered, and the taker owns it. If both close their ends, the connection is lost.
//!
//! # What the caller does
//!
//! * It carries out the actions of a machine one after the other, in the order of the steps.
//! * It feeds the result of a send before anything else happens at that end.
//! * It feeds `End` only when the link is read to its end. ECONNRESET is not the end: the peer has closed its end with messages
//!   unread, and what it has sent before is still in the link.
//! * `withdrawn` always finds room: offers leave it free in the link. So a taker that hangs holds nothing up.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// The number of a connection in its link. No number comes twice.
pub(crate) type Id = u64;

/// The end of the giver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Giver {
    /// Connections may be offered. Afterwards the end is shut down for reading, or closed.
    is_open: bool,
    /// The connections without a verdict.
    offered: BTreeSet<Id>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GiverEvent {
    /// A connection is at a boundary of its protocol.
    Offer(Id),
    /// The offer could not be sent.
    NotSent(Id),
    /// The answer of the taker: it owns the connection.
    Taken(Id),
    /// The answer of the taker: it does not want the connection.
    Refused(Id),
    /// The offers have waited long enough, or nothing is to move any more.
    Deadline,
    /// The link is read to its end: no answer comes any more.
    End,
    /// This process has closed its end.
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum GiverAction {
    /// Send the offer with the descriptor, which this process keeps as well. `NotSent` follows if it cannot be sent.
    SendOffer(Id),
    /// Shut the end down for reading, shutdown(2). Answers that are in the link can still be read.
    ShutDown,
    /// Send `withdrawn`. The actions after it wait until it is in the link, or until the taker's end is closed (EPIPE or ECONNRESET).
    SendWithdrawn(Vec<Id>),
    /// This process owns the connection again.
    Keep(Id),
    /// The taker owns the connection: close the descriptor.
    LetGo(Id),
}

impl Giver {
    pub(crate) fn new() -> Self {
        Self { is_open: true, offered: BTreeSet::new() }
    }

    /// Whether every offer has its verdict, so that the drain may end.
    #[cfg(test)]
    pub(crate) fn is_settled(&self) -> bool {
        self.offered.is_empty()
    }

    #[must_use]
    pub(crate) fn step(&mut self, event: GiverEvent) -> Vec<GiverAction> {
        use {GiverAction as A, GiverEvent as E};
        match event {
            E::Offer(id) if self.is_open => {
                self.offered.insert(id);
                vec![A::SendOffer(id)]
            }
            E::Offer(id) => vec![A::Keep(id)],
            E::Taken(id) => self.settle_one(id, A::LetGo),
            E::NotSent(id) | E::Refused(id) => self.settle_one(id, A::Keep),
            E::Deadline if self.is_open => {
                self.is_open = false;
                vec![A::ShutDown]
            }
            E::Deadline => Vec::new(),
            E::End => {
                let left = self.settle_all();
                let withdrawn = (!left.is_empty()).then(|| A::SendWithdrawn(left.clone()));
                withdrawn.into_iter().chain(left.into_iter().map(A::Keep)).collect()
            }
            E::Closed => self.settle_all().into_iter().map(A::LetGo).collect(),
        }
    }

    fn settle_one(&mut self, id: Id, verdict: fn(Id) -> GiverAction) -> Vec<GiverAction> {
        self.offered.remove(&id).then(|| verdict(id)).into_iter().collect()
    }

    fn settle_all(&mut self) -> Vec<Id> {
        self.is_open = false;
        std::mem::take(&mut self.offered).into_iter().collect()
    }
}

/// The end of the taker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Taker {
    phase: TakerPhase,
    /// The connections that have arrived and have no verdict.
    held: BTreeMap<Id, Held>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum TakerPhase {
    /// Offers and answers go through the link.
    Open,
    /// No answer can be sent. The verdict is in the link.
    Unanswerable,
    /// The link is read to its end, or this process has closed its end.
    Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Held {
    /// The body has not decided.
    Undecided,
    /// The body takes the connection, and `taken` may be in the link already.
    Taking,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TakerEvent {
    /// An offer with its descriptor.
    Arrived(Id),
    /// The body takes the connection.
    Take(Id),
    /// The connection goes back. It is too late for that after `Take`.
    Refuse(Id),
    /// The answer `taken` is in the link.
    Sent(Id),
    /// The answer `taken` cannot be sent: EPIPE or ECONNRESET.
    NotSent(Id),
    /// The giver owns these connections again.
    Withdrawn(Vec<Id>),
    /// The link is read to its end: the giver has closed its end, or is dead.
    End,
    /// This process has closed its end.
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TakerAction {
    /// Send `taken`. `Sent` or `NotSent` follows; until then no byte of the connection is touched.
    SendTaken(Id),
    /// Send `refused`. If it cannot be sent, the giver withdraws the connection.
    SendRefused(Id),
    /// This process owns the connection, even if the body has not taken it.
    Own(Id),
    /// The connection is not this process's: close the descriptor.
    Drop(Id),
}

impl Taker {
    pub(crate) fn new() -> Self {
        Self { phase: TakerPhase::Open, held: BTreeMap::new() }
    }

    /// Whether every connection that has arrived has its verdict.
    #[cfg(test)]
    pub(crate) fn is_settled(&self) -> bool {
        self.held.is_empty()
    }

    #[must_use]
    pub(crate) fn step(&mut self, event: TakerEvent) -> Vec<TakerAction> {
        use {TakerAction as A, TakerEvent as E, TakerPhase as P};
        match event {
            // It was read before this process closed its end.
            E::Arrived(id) if self.phase == P::Settled => vec![A::Drop(id)],
            E::Arrived(id) => {
                self.held.insert(id, Held::Undecided);
                Vec::new()
            }
            E::Take(id) => match self.held.get_mut(&id) {
                Some(held @ Held::Undecided) if self.phase == P::Open => {
                    *held = Held::Taking;
                    vec![A::SendTaken(id)]
                }
                _ => Vec::new(),
            },
            // After `Take` the answer may be in the link, and nobody else would have the connection.
            E::Refuse(id) if self.held.get(&id) == Some(&Held::Undecided) => {
                self.held.remove(&id);
                let said = (self.phase == P::Open).then_some(A::SendRefused(id));
                said.into_iter().chain([A::Drop(id)]).collect()
            }
            E::Refuse(_) => Vec::new(),
            E::Sent(id) => self.settle([id], A::Own),
            E::NotSent(_) => {
                if self.phase == P::Open {
                    self.phase = P::Unanswerable;
                }
                Vec::new()
            }
            E::Withdrawn(ids) => self.settle(ids, A::Drop),
            E::End => self.settle_all(A::Own),
            E::Closed => self.settle_all(A::Drop),
        }
    }

    fn settle(
        &mut self,
        ids: impl IntoIterator<Item = Id>,
        verdict: fn(Id) -> TakerAction,
    ) -> Vec<TakerAction> {
        ids.into_iter().filter(|id| self.held.remove(id).is_some()).map(verdict).collect()
    }

    fn settle_all(&mut self, verdict: fn(Id) -> TakerAction) -> Vec<TakerAction> {
        self.phase = TakerPhase::Settled;
        std::mem::take(&mut self.held).into_keys().map(verdict).collect()
    }
}
