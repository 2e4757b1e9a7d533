//! The parties outside this process, one in each file: sockets, other generations, the service manager, files,
//! commands.

#[cfg(upgrades)]
pub(crate) mod handover;
#[cfg(upgrades)]
pub(crate) mod hint;
#[cfg(upgrades)]
pub(crate) mod inherited;
#[cfg(upgrades)]
mod loader;
pub(crate) mod pidfile;
#[cfg(upgrades)]
pub(crate) mod preflight;
#[cfg(upgrades)]
pub(crate) mod probe;
#[cfg(upgrades)]
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "a start needs the proof, and sends no signal"))]
pub(crate) mod proof;
pub(crate) mod sockets;
#[cfg(upgrades)]
pub(crate) mod spawn;
#[cfg(upgrades)]
pub(crate) mod spawner;
#[cfg(upgrades)]
pub(crate) mod supervise;
#[cfg(upgrades)]
pub(crate) mod systemd;
