//! Names and limits: what a name is, how many listeners a service has, and the limits of the system that a start can
//! meet.

use std::io;

use crate::base::address::{Address, Place};
use crate::base::error::StartError;
use crate::base::report::printable;

/// The longest name of a listener or a service, in bytes.
const MAX_NAME: usize = 64;

/// The most listeners of a service, without its control socket. A successor names all adopted sockets in one message.
pub(crate) const MAX_LISTENERS: usize = 10_000;

/// The longest name of a descriptor that is passed on, in bytes.
pub(crate) const MAX_FILE_NAME: usize = 4096;

/// How many descriptors a service passes on at most. An offer has room for them beside the sockets of all listeners.
pub(crate) const MAX_PASSED_ON: usize = 50_000;

/// A name with this character belongs to a descriptor that this crate itself passes on.
pub(crate) const OWN_FILE: char = '\0';

/// How much of the path of a pid file two generations compare and a message shows, in bytes.
#[cfg(upgrades)]
pub(crate) const MAX_PIDFILE_SHOWN: usize = 2048;

/// How much of a version two generations tell each other, in bytes.
#[cfg(upgrades)]
pub(crate) const MAX_VERSION: usize = 128;

/// How many clients are named whose connections a drain has cut.
pub(crate) const MAX_PEERS: usize = 8;

pub(crate) fn too_many_listeners() -> String {
    format!("a service has at most {MAX_LISTENERS} listeners")
}

pub(crate) fn check_name(name: &str) -> Result<(), StartError> {
    if is_name(name) {
        return Ok(());
    }
    Err(StartError::Listener { listener: printable(name), problem: what_a_name_is() })
}

pub(crate) fn is_name(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(valid)
}

pub(crate) fn what_a_name_is() -> String {
    format!("a name has 1 to {MAX_NAME} letters, digits, `_` and `-`")
}

/// Whether two listeners cannot have these addresses at the same time. Each port 0 becomes another port, and
/// SO_REUSEPORT allows several sockets at one address.
pub(crate) fn collide(one: &Address, other: &Address) -> bool {
    let is_any = matches!(one.place(), Place::Ip { port: 0, .. });
    let share = [one, other].iter().all(|address| address.options().reuse_port == Some(true));
    !is_any && !share && one.is_at(other)
}

/// The name of the engine's thread. It is part of the proof that a process is a service, so it never changes.
pub(crate) const ENGINE_THREAD: &str = "tableflip";

/// Adds the limits of threads to an error of starting a thread.
pub(crate) fn no_thread(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(error.kind(), format!("{error}: {THREAD_LIMITS}")),
        _ => error,
    }
}

/// The limits that can keep a process from starting a thread.
pub(crate) const THREAD_LIMITS: &str = "the limit of threads is TasksMax= of the unit (pids.max of the container), and \
                                        LimitNPROC= (RLIMIT_NPROC), which counts every process of the user";

/// The limit that can keep a process from opening a descriptor.
#[cfg(feature = "tokio")]
pub(crate) const DESCRIPTOR_LIMIT: &str =
    "the limit of descriptors is LimitNOFILE= of the unit (RLIMIT_NOFILE)";
