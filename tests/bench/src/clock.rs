//! CLOCK_MONOTONIC, which all processes of a machine share, and the processor time of one of them.

use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::Result;

/// CLOCK_MONOTONIC as a number, so that a stamp of one process can be compared with that of another.
pub(crate) fn now() -> Duration {
    // It fails only for a clock that the system does not have.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// The processor time of all threads of a process, clock_getcpuclockid(3).
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into()?))?;
    Ok(clock_gettime(clock)?.into())
}
