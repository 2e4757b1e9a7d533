//! What the processes say: to each other on the channel, and in the log.

use nix::libc;

use super::LAST_CALLS;
use crate::fault::Moment;
use crate::service::{TOLD_OF_FAILURE, TOLD_OF_SUCCESS};
use crate::tracer::{Call, text_of};

/// How often a process reads all that has arrived before it has certainly heeded a signal.
const LOOKS: usize = 3;

/// How a process says that an upgrade has failed, or that it starts its own image in the place of a dead successor.
const FAILURES: [&str; 3] = ["upgrade failed: ", "upgrade refused: ", " is started in its place"];

/// How an old process that was told to stop in a probation says that the new one serves on.
const UNWATCHED: &str = " serves, and nothing watches it";

/// Whether a process says that its upgrade has failed.
pub(super) fn says_failure(log: &str) -> bool {
    FAILURES.iter().any(|failure| log.contains(failure))
}

/// Whether the service has told the outcome of its upgrade.
pub(super) fn tells_outcome(log: &str) -> bool {
    [TOLD_OF_SUCCESS, TOLD_OF_FAILURE].iter().any(|told| log.contains(told))
}

/// Whether the old process, which was told to stop, says that the new one serves.
pub(super) fn leaves_successor(log: &str) -> bool {
    [TOLD_OF_SUCCESS, UNWATCHED].iter().any(|outcome| log.contains(outcome))
}

/// What the two processes have said to each other, as far as it decides the outcome of a fault.
#[derive(Default)]
pub(super) struct Words {
    so_far: Moment,
    /// The new process has said that it serves.
    is_active: bool,
    /// The process that was told to stop; whether its handler has run since.
    stopped: Option<i32>,
    is_handled: bool,
    /// How often it has read all that had arrived since then. An arrival goes before a stop.
    looks: usize,
    /// How many system calls the new process has made since another fault.
    calls: usize,
}

impl Words {
    pub(super) fn hear(&mut self, call: &Call, old: i32, of_fault: Option<&mut Moment>) {
        match *call {
            Call::Entry { process, number: libc::SYS_sendmsg, arguments, .. } => {
                let text = text_of(process, arguments[1]);
                let says = |word: &str| text.contains(&format!("\"type\":\"{word}\""));
                self.so_far.is_committed |= process == old && says("commit");
                self.so_far.is_asked |= process == old && says("ping");
                self.is_active |= process != old && says("active");
            }
            Call::Exit { process, number: libc::SYS_recvmsg, result: 1.., .. } if process == old => {
                self.so_far.is_known_active |= self.is_active;
            }
            Call::Exit { process, number: libc::SYS_recvmsg, result, .. }
                if self.stopped == Some(process) =>
            {
                self.looks += usize::from(self.is_handled && result == -i64::from(libc::EAGAIN));
            }
            Call::Entry { process, number: libc::SYS_rt_sigreturn, .. } if self.stopped == Some(process) => {
                self.is_handled = true;
            }
            Call::Entry { process, .. } => self.calls += usize::from(process != old),
            _ => {}
        }
        // A message that is sent soon after the fault has crossed it: a signal waits for a thread that has a processor, and a process
        // notices a death after a few calls.
        let is_noticed = match self.stopped {
            Some(_) => self.looks >= LOOKS,
            None => self.calls >= LAST_CALLS,
        };
        if let Some(moment) = of_fault.filter(|_| !is_noticed) {
            moment.is_committed |= self.so_far.is_committed;
            moment.is_asked |= self.so_far.is_asked;
        }
    }

    /// The moment of a fault, which happens now.
    pub(super) fn moment(&mut self, named: Option<i32>, stopped: Option<i32>) -> Moment {
        (self.stopped, self.is_handled, self.looks, self.calls) = (stopped, false, 0, 0);
        Moment { named, ..self.so_far }
    }
}
