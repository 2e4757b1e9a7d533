//! The sockets that came with this process and that no listener has adopted yet.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::base::address::{Address, Place};
use crate::sys::fd::OwnedFd;

/// One socket of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// `Address::identity`.
    pub(crate) address: String,
    /// Device and inode of the Unix path when the socket was bound. A process removes the path only while they are
    /// still the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inode: Option<(u64, u64)>,
    /// The socket belongs to a socket unit: the service manager has it as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) activated: bool,
}

/// The origin of a socket that no listener has adopted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(upgrades), expect(dead_code, reason = "no socket comes with the process"))]
pub(crate) enum Source {
    /// The predecessor. The number is the place of the socket in the offer.
    Predecessor(usize),
    ServiceManager,
}

impl Source {
    /// The place of the socket in the predecessor's offer.
    pub(crate) fn place(self) -> Option<usize> {
        match self {
            Self::Predecessor(place) => Some(place),
            Self::ServiceManager => None,
        }
    }
}

/// A socket that came with this process and that no listener has adopted yet.
#[derive(Debug)]
pub(crate) struct Unadopted {
    pub(crate) source: Source,
    pub(crate) entry: Entry,
    pub(crate) fd: OwnedFd,
}

/// Takes the socket of this name and address out of an offer, or else the socket of this address under another name. A
/// listener may have a new name, and its address cannot be bound a second time. Any number of sockets may have a port
/// that the kernel chose, so for port 0 the name must match.
pub(crate) fn take_offered(
    unadopted: &mut VecDeque<Unadopted>,
    name: &str,
    address: &Address,
) -> Option<Unadopted> {
    let identity = address.identity();
    let is_one = !matches!(address.place(), Place::Ip { port: 0, .. });
    let named = unadopted.iter().position(|it| it.entry.name == name && it.entry.address == identity);
    let renamed = || unadopted.iter().position(|it| is_one && it.entry.address == identity);
    take_at(unadopted, named.or_else(renamed)?, name)
}

/// Takes the socket at this place, for the listener of this name.
pub(crate) fn take_at(unadopted: &mut VecDeque<Unadopted>, at: usize, name: &str) -> Option<Unadopted> {
    let mut found = unadopted.remove(at)?;
    name.clone_into(&mut found.entry.name);
    Some(found)
}
