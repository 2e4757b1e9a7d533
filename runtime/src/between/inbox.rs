//! The notes for the engine until it takes them, and the answers after its end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::base::error::{RevertError, UpgradeError};
use crate::base::report::Who;
use crate::base::status::Status;
use crate::between::gate_control::GateControl;
use crate::between::note::Note;
use crate::outside::sockets;

/// The notes that the engine has not taken yet. Once the engine has ended, the inbox answers in its place.
pub(crate) struct Inbox {
    state: Mutex<State>,
    /// The process in the events of an answer.
    who: Who,
}

enum State {
    Open(Vec<Note>),
    Closed(Arc<LastAnswer>),
}

impl Inbox {
    pub(crate) fn new(who: Who) -> Self {
        Self { state: Mutex::new(State::Open(Vec::new())), who }
    }

    /// Adds a note, or answers it if the engine has ended.
    pub(crate) fn put(&self, note: Note) {
        let last = match &mut *self.state() {
            State::Open(notes) => return notes.push(note),
            State::Closed(last) => last.clone(),
        };
        last.answer(note, self.who);
    }

    /// Takes all notes.
    pub(crate) fn take(&self) -> Vec<Note> {
        match &mut *self.state() {
            State::Open(notes) => std::mem::take(notes),
            State::Closed(_) => Vec::new(),
        }
    }

    /// The engine has ended: answers the notes that it has not taken, and from now on every note at once.
    pub(crate) fn close(&self, refusal: UpgradeError, status: Status) {
        let last = Arc::new(LastAnswer { refusal, status });
        let state = std::mem::replace(&mut *self.state(), State::Closed(last.clone()));
        if let State::Open(notes) = state {
            notes.into_iter().for_each(|note| last.answer(note, self.who));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answers to the notes after the end of the engine.
struct LastAnswer {
    refusal: UpgradeError,
    status: Status,
}

impl LastAnswer {
    /// Call it without the lock of the inbox: an event of it may reach a subscriber that posts a note.
    fn answer(&self, note: Note, who: Who) {
        match note {
            Note::Upgrade { reply, .. } => reply.set(Err(self.refusal.clone())),
            Note::Revert(reply) => reply.set(Err(match self.refusal {
                UpgradeError::Unsupported => RevertError::Unsupported,
                _ => RevertError::Terminating,
            })),
            Note::Status(reply) => reply.set(self.status.clone()),
            Note::Listener { socket, gates, .. } => {
                sockets::forget(socket.map(|socket| *socket).as_slice(), who);
                retire(&gates);
            }
            #[cfg(upgrades)]
            Note::Control { socket, control } => {
                sockets::forget(&[*socket], who);
                control.end();
            }
            // The body may run all the same. Without this it would wait at these gates for ever.
            Note::Prepared(prepared) => retire(&prepared.gates),
            // These have no waiting sender.
            _ => {}
        }
    }
}

/// Closes the listeners of a body whose gates never reached the engine.
fn retire(gates: &[Arc<dyn GateControl>]) {
    gates.iter().for_each(|gate| _ = gate.retire(Instant::now()));
}
