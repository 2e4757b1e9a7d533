//! The operating system: each file has one system call, or one kind of call. No file knows a listener or the life
//! cycle.

#[cfg_attr(not(upgrades), path = "portable/sys/wake.rs")]
pub(crate) mod wake;

#[cfg(all(test, upgrades))]
pub(crate) mod fault;
pub(crate) mod fd;
#[cfg(upgrades)]
pub(crate) mod hangup;
#[cfg(upgrades)]
pub(crate) mod memfd;
#[cfg(upgrades)]
pub(crate) mod outgoing;
#[cfg(upgrades)]
pub(crate) mod packet;
#[cfg(upgrades)]
pub(crate) mod pidfd;
#[cfg(upgrades)]
pub(crate) mod poll;
#[cfg(upgrades)]
pub(crate) mod proc;
#[cfg(upgrades)]
pub(crate) mod signal_mask;
pub(crate) mod signals;
#[cfg(upgrades)]
pub(crate) mod token;
