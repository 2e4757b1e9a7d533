//! The engine's part in the connections that move: it begins and ends their way to the successor. A thread of each process moves
//! them, over a link of its own.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::base::report::{complain, printable, tell};
use crate::base::status::Moves;
use crate::engine::core::Engine;
use crate::lifecycle::Phase;
use crate::moving::giving::Takes;
use crate::outside::handover::link;
use crate::outside::handover::message::{MAX_MESSAGE, Message, TakenKinds};

impl Engine {
    /// Tells the predecessor which open connections this process takes, if any, and begins to wait for them.
    pub(super) fn take_connections(&mut self) {
        let Some(predecessor) = &self.neighbours.predecessor else { return };
        let Some((message, link)) = self.begin_taking(predecessor.adopted.clone()) else { return };
        let Some(predecessor) = &mut self.neighbours.predecessor else { return };
        let sent = predecessor.channel.send_with(&message, vec![Arc::new(link)]);
        self.complain_of_link("predecessor", sent);
    }

    /// Tells a successor that has given the service back which of its open connections this process takes, if any.
    pub(super) fn take_connections_back(&mut self) {
        let names = self.listeners.sockets.iter().map(|socket| socket.name.clone()).enumerate();
        let places: Vec<_> = names.filter(|(_, name)| self.is_adopted(name)).collect();
        let wanted = if self.neighbours.upgrade.order.no_move { None } else { self.begin_taking(places) };
        let (Some((message, link)), Some(successor)) = (wanted, &mut self.neighbours.successor) else {
            return;
        };
        let sent = successor.channel.send_with(&message, vec![Arc::new(link)]);
        self.complain_of_link("successor", sent);
    }

    fn complain_of_link(&self, other: &str, sent: io::Result<()>) {
        if let Err(error) = sent {
            complain!(self.shared, WARN, "connections of the {other} do not move here: {error}");
        }
    }

    /// Begins to wait for the open connections of another process. `places` has the listeners of this process that both have, by
    /// their places in the offer. Returns what to tell the other process, or `None` if this process takes nothing.
    fn begin_taking(&self, places: Vec<(usize, String)>) -> Option<(Message, OwnedFd)> {
        let mut kinds: HashMap<_, _> = self.shared.moving.taking.kinds().into_iter().collect();
        let mut taken = HashMap::new();
        let mut listeners = Vec::new();
        for (listener, name) in places {
            let Some(kinds) = kinds.remove(&name) else { continue };
            taken.insert(listener, name);
            listeners.push(TakenKinds { listener, kinds });
        }
        if listeners.is_empty() {
            return None;
        }
        let mut message = Message::Takes { listeners };
        // Connections of listeners that do not fit drain as those of an earlier release.
        while message.encode().len() > MAX_MESSAGE {
            if let Message::Takes { listeners } = &mut message {
                listeners.truncate(listeners.len() / 2);
            }
        }
        let begun = link::pair().and_then(|(ours, theirs)| {
            self.shared.moving.taking.begin(ours, taken)?;
            Ok(theirs)
        });
        match begun {
            Ok(theirs) => Some((message, theirs)),
            Err(error) => {
                complain!(self.shared, WARN, "open connections do not move here: {error}");
                None
            }
        }
    }

    /// The predecessor is about to serve again, and says which open connections it takes.
    pub(super) fn hear_takes_of_predecessor(&mut self, listeners: Vec<TakenKinds>, fds: Vec<OwnedFd>) {
        let is_wanted = self.state.phase == Phase::Yielded;
        let Some(predecessor) = self.neighbours.predecessor.as_ref().filter(|_| is_wanted) else { return };
        let names: HashMap<_, _> =
            predecessor.adopted.iter().map(|(place, name)| (*place, name.clone())).collect();
        self.expect(listeners, fds, |place| names.get(&place).cloned());
    }

    /// The successor says which open connections it takes.
    pub(super) fn hear_takes(&mut self, listeners: Vec<TakenKinds>, fds: Vec<OwnedFd>) {
        // Nothing moves to a rescue, nor to a successor that says so too late, nor after an upgrade with `--no-move`.
        let is_wanted =
            matches!(self.state.phase, Phase::Upgrading) && !self.neighbours.upgrade.order.no_move;
        if is_wanted {
            self.expect(listeners, fds, |place| Some(self.listeners.sockets.get(place)?.name.clone()));
        }
    }

    /// Notes which open connections the other process takes. `name` has the listeners of this process by their places.
    fn expect(&self, listeners: Vec<TakenKinds>, fds: Vec<OwnedFd>, name: impl Fn(usize) -> Option<String>) {
        let Some(link) = fds.into_iter().next().filter(link::is_link) else { return };
        let takes = listeners.into_iter().filter_map(|TakenKinds { listener, kinds }| {
            Some((name(listener)?, Takes { place: listener, kinds }))
        });
        let takes: HashMap<_, _> = takes.collect();
        let kinds = takes.values().flat_map(|takes| &takes.kinds).map(|kind| printable(kind));
        let kinds: Vec<_> = kinds.collect();
        tell!(self.shared, DEBUG, ?kinds, "the other process takes open connections");
        self.shared.moving.giving.expect(link, takes);
    }

    /// From now on open connections may move to the process that serves.
    pub(super) fn move_connections(&mut self) {
        if let Err(error) = self.shared.moving.giving.begin() {
            complain!(self.shared, WARN, "connections do not move: {error}");
        }
    }

    /// The connections that have moved.
    pub(in crate::engine) fn moves(&self) -> Moves {
        let (moved, stayed) = self.shared.moving.giving.counts();
        let (taken, refused) = self.shared.moving.taking.counts();
        Moves { taken, refused, moved, stayed }
    }

    /// Logs how many connections have moved, at the end of a predecessor.
    pub(in crate::engine) fn tell_moves(&self) {
        let Moves { moved, stayed, .. } = self.moves();
        if moved + stayed > 0 {
            let cut = self.shared.aborted();
            tell!(self.shared, INFO, moved, stayed, cut, "connections moved to the process that serves");
        }
    }

    /// Warns of connections that this process did not take for want of descriptors, once the predecessor is gone.
    pub(super) fn warn_of_shortage(&self) {
        let count = self.shared.moving.taking.refused_for_shortage();
        if count > 0 {
            complain!(
                self.shared,
                WARN,
                "{count} connections of the predecessor have not moved here: the limit of open files (RLIMIT_NOFILE, \
                 `ulimit -n`, LimitNOFILE=) is too low",
            );
        }
    }

    /// From now on no connection moves.
    pub(super) fn keep_connections(&mut self) {
        self.shared.moving.giving.keep();
    }
}
