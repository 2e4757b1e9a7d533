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
    /// Device and inode of the Unix path as it was bound: whoever removes the path removes no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inode: Option<(u64, u64)>,
    /// The service manager has it as well: it is one of a socket unit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) activated: bool,
}

/// Where a socket came from that no listener has adopted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(upgrades), expect(dead_code, reason = "no socket comes with the process"))]
pub(crate) enum Source {
    /// The predecessor: the socket's place in its offer.
    Predecessor(usize),
    ServiceManager,
}

impl Source {
    /// The socket's place in the offer of the predecessor.
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

/// Takes the socket of this name and address out of an offer, or else one of this address whose name has changed: it
/// cannot be bound a second time, and it is the one that is meant. Of addresses with a port of the kernel's choice there
/// are as many as anybody likes, and the name alone tells them apart.
pub(crate) fn take_offered(
    unadopted: &mut VecDeque<Unadopted>,
    name: &str,
    address: &Address,
) -> Option<Unadopted> {
    let identity = address.identity();
    let is_one = !matches!(address.place(), Place::Ip { port: 0, .. });
    let named = unadopted.iter().position(|it| it.entry.name == name && it.entry.address == identity);
    let renamed = || unadopted.iter().position(|it| is_one && it.entry.address == identity);
    let mut found = unadopted.remove(named.or_else(renamed)?)?;
    name.clone_into(&mut found.entry.name);
    Some(found)
}
