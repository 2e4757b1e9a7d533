//! What every program needs that starts services: the tests, the benchmark, the sweeps and the demo.
//!
//! * `signals.rs`, [`default_for_children`]: the first call of such a program, so that a service receives every signal.
//! * `process.rs`, [`Process`] and [`Exit`]: one process by its pidfd, and how it ended. [`pidfile`]: the process of a pid file.
//! * `wait.rs`, [`wait_until`] and its like: each wait has a deadline.
//! * [`proc`]: what /proc says of a process.
//! * [`skip`]: a test that cannot run here says why. [`is_slow_wanted`]: whether the tests that take long run.
//!
//! A new reader builds the demo first, and the demo builds this package. So it has no dependency that takes long to build: clients of
//! protocols are in `tests/load`.

pub mod proc;
mod process;
mod signals;
mod skip;
mod wait;

pub use process::{Exit, Process, adopt_orphans, pidfile, signal, signal_group};
pub use rustix::process::Signal;
pub use signals::default_for_children;
pub use skip::{is_slow_wanted, skip};
pub use wait::{DEADLINE, find, find_within, is_readable_within, is_writable_within, wait_until};
