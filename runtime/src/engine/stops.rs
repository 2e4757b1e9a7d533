//! Which of the signals that ask to stop are one request, and which is the second, which ends the process at once.

use std::time::{Duration, Instant};

use crate::sys::signals::Signal;

/// How long after the first signal a SIGTERM is the same request. A service manager signals every process of a unit, and a
/// wrapper, a supervisor or a shell among them passes on what it got: the service gets SIGTERM twice for one request.
const BURST: Duration = Duration::from_secs(1);

/// When the first signal came.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    first: Option<Instant>,
}

impl Stops {
    /// Notes a signal that came at this time. Returns whether it is a second request.
    ///
    /// Ctrl-C after another signal always is one: a person presses it, and means it, and a terminal sends it to the whole
    /// process group before any process of it can pass it on. A hang-up never is one: the shell and the kernel both send it, the
    /// kernel when the shell exits.
    pub(crate) fn is_second(&mut self, signal: Signal, now: Instant) -> bool {
        let Some(first) = self.first else {
            self.first = Some(now);
            return false;
        };
        if signal == Signal::SIGHUP {
            return false;
        }
        signal == Signal::SIGINT || now.saturating_duration_since(first) >= BURST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of these signals is, which come at these times after the first, in milliseconds.
    fn seconds(signals: &[(Signal, u64)]) -> Vec<bool> {
        let (mut stops, begin) = (Stops::default(), Instant::now());
        let mut note =
            |(signal, at): &(Signal, u64)| stops.is_second(*signal, begin + Duration::from_millis(*at));
        signals.iter().map(&mut note).collect()
    }

    #[test]
    fn b8_sigterms_of_a_burst_are_one_request_and_a_later_one_is_the_second() {
        use Signal::{SIGHUP, SIGINT, SIGTERM};
        assert_eq!(seconds(&[(SIGTERM, 0), (SIGTERM, 0), (SIGTERM, 999)]), [false; 3]);
        assert_eq!(seconds(&[(SIGTERM, 0), (SIGTERM, 1000)]), [false, true]);
        // The time is that since the first: signals without end do not keep it from ending.
        assert_eq!(seconds(&[(SIGTERM, 0), (SIGTERM, 600), (SIGTERM, 1200)]), [false, false, true]);
        // A process manager at a terminal gets Ctrl-C with its children, and sends them SIGTERM.
        assert_eq!(seconds(&[(SIGINT, 0), (SIGTERM, 5)]), [false, false]);
        assert_eq!(seconds(&[(SIGINT, 0), (SIGINT, 5)]), [false, true], "somebody presses it twice");
        assert_eq!(seconds(&[(SIGTERM, 0), (SIGINT, 5)]), [false, true]);
        assert_eq!(
            seconds(&[(SIGHUP, 0), (SIGHUP, 60_000)]),
            [false, false],
            "a shell may take long to exit"
        );
        assert_eq!(seconds(&[(SIGHUP, 0), (SIGTERM, 60_000)]), [false, true]);
    }
}
