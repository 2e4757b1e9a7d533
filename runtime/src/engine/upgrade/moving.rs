//! The engine's part in the connections that move: it begins and ends their way to the successor. A thread of each process moves
//! them, over a link of its own.

use std::collections::HashMap;
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
        let Some(predecessor) = &mut self.neighbours.predecessor else { return };
        let mut kinds: HashMap<_, _> = self.shared.moving.taking.kinds().into_iter().collect();
        let mut places = HashMap::new();
        let mut listeners = Vec::new();
        for (place, name) in &predecessor.adopted {
            let Some(kinds) = kinds.remove(name) else { continue };
            places.insert(*place, name.clone());
            listeners.push(TakenKinds { listener: *place, kinds });
        }
        if listeners.is_empty() {
            return;
        }
        let mut message = Message::Takes { listeners };
        // Connections of listeners that do not fit drain as those of an earlier release.
        while message.encode().len() > MAX_MESSAGE {
            if let Message::Takes { listeners } = &mut message {
                listeners.truncate(listeners.len() / 2);
            }
        }
        let begun = link::pair().and_then(|(ours, theirs)| {
            self.shared.moving.taking.begin(ours, places)?;
            predecessor.channel.send_with(&message, vec![Arc::new(theirs)])
        });
        if let Err(error) = begun {
            complain!(self.shared, WARN, "connections of the predecessor do not move here: {error}");
        }
    }

    /// The successor says which open connections it takes.
    pub(super) fn hear_takes(&mut self, listeners: Vec<TakenKinds>, fds: Vec<OwnedFd>) {
        // Nothing moves to a rescue, nor to a successor that says so too late, nor after an upgrade with `--no-move`.
        let is_wanted = matches!(self.state.phase, Phase::Upgrading) && !self.neighbours.upgrade.no_move;
        let Some(link) = fds.into_iter().next().filter(|fd| is_wanted && link::is_link(fd)) else { return };
        let takes = listeners.into_iter().filter_map(|TakenKinds { listener, kinds }| {
            let name = self.listeners.sockets.get(listener)?.name.clone();
            Some((name, Takes { place: listener, kinds }))
        });
        let takes: HashMap<_, _> = takes.collect();
        let kinds = takes.values().flat_map(|takes| &takes.kinds).map(|kind| printable(kind));
        let kinds: Vec<_> = kinds.collect();
        tell!(self.shared, DEBUG, ?kinds, "the successor takes open connections");
        self.shared.moving.giving.expect(link, takes);
    }

    /// From now on open connections may move to the successor.
    pub(super) fn move_connections(&mut self) {
        if let Err(error) = self.shared.moving.giving.begin() {
            complain!(self.shared, WARN, "connections do not move to the successor: {error}");
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
            let cut = self.shared.counted();
            tell!(self.shared, INFO, moved, stayed, cut, "connections moved to the successor");
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
