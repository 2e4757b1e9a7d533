//! A socket of this process, apart from the descriptors that its body takes.

use std::io;
use std::sync::Arc;

use socket2::SockRef;

#[cfg(unix)]
use super::path;
#[cfg(upgrades)]
use super::tuning::Tuning;
use super::{create, platform};
use crate::base::address::{Address, Kind};
use crate::base::report::{Who, complain};
#[cfg(upgrades)]
use crate::base::unadopted::Entry;
use crate::sys::fd::{self, OwnedFd};

/// A socket that this process keeps until its end.
#[derive(Clone, Debug)]
pub(crate) struct BoundSocket {
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) fd: Arc<OwnedFd>,
    /// Device and inode of the Unix path, as it was bound.
    pub(crate) inode: Option<(u64, u64)>,
    /// This process has bound it, and has not inherited it.
    pub(crate) created: bool,
    /// The options of the address are set. On a socket that another process has as well, that waits for the take-over.
    pub(crate) tuned: bool,
    /// It belongs to a socket unit: the service manager has it too, and owns its path.
    #[cfg(upgrades)]
    pub(crate) activated: bool,
    /// The options as they were before the successor got the socket.
    #[cfg(upgrades)]
    pub(crate) before_successor: Option<Tuning>,
}

impl BoundSocket {
    /// A socket that this process has bound, and whose options are set.
    pub(super) fn new(name: String, address: &Address, fd: OwnedFd) -> Self {
        Self {
            name,
            address: address.clone(),
            fd: Arc::new(fd),
            inode: None,
            created: true,
            tuned: true,
            #[cfg(upgrades)]
            activated: false,
            #[cfg(upgrades)]
            before_successor: None,
        }
    }

    /// The port of an IP socket.
    pub(crate) fn port(&self) -> Option<u16> {
        Some(SockRef::from(&*self.fd).local_addr().ok()?.as_socket()?.port())
    }

    /// How many connections wait in the queue of a TCP listener, and how many may, tcp(7).
    pub(crate) fn queue(&self) -> Option<(u32, u32)> {
        (self.address.kind() == Kind::Tcp).then(|| platform::accept_queue(fd::borrow(&self.fd)))?
    }

    /// A descriptor of its own for the body.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Removes its path, unless the file there is not the one that was bound.
    pub(crate) fn unlink(&self) -> io::Result<()> {
        match self.address.path().zip(self.inode) {
            #[cfg(unix)]
            Some((path, bound)) => path::unlink(path, bound),
            _ => Ok(()),
        }
    }

    /// Removes its path as the service ends, or closes the listener.
    pub(crate) fn remove(&self, who: Who) {
        if let Err(error) = self.unlink() {
            complain!(who, "cannot remove {}: {error}", self.address.identity());
        }
    }

    /// Sets the options of the address on a socket that was adopted, at the take-over: they belong to the open file
    /// description, and until then the predecessor serves with it.
    pub(crate) fn tune(&mut self) -> io::Result<()> {
        if !self.tuned {
            create::set_live_options(&self.address, SockRef::from(&*self.fd))?;
            create::listen(&self.address, fd::borrow(&self.fd))?;
            self.tuned = true;
        }
        Ok(())
    }
}

#[cfg(upgrades)]
impl BoundSocket {
    /// Its entry in an offer.
    pub(crate) fn entry(&self) -> Entry {
        Entry {
            name: self.name.clone(),
            address: self.address.identity(),
            inode: self.inode,
            activated: self.activated,
        }
    }

    /// Whether clients find another file than this socket at its path, or none.
    ///
    /// A bound socket keeps its file from being freed, so no other file has the inode number while the socket is open.
    pub(crate) fn is_cut_off(&self) -> bool {
        let bound = self.address.path().zip(self.inode);
        bound.is_some_and(|(path, inode)| path::inode_of(path).ok() != Some(inode))
    }

    /// O_NONBLOCK belongs to the open file description, which every process that inherited the socket shares. A process
    /// that clears it leaves this one asleep in an accept. Returns whether O_NONBLOCK was cleared.
    pub(crate) fn restore_nonblocking(&self) -> io::Result<bool> {
        let socket = SockRef::from(&*self.fd);
        let cleared = !socket.nonblocking()?;
        if cleared {
            socket.set_nonblocking(true)?;
        }
        Ok(cleared)
    }

    /// Reads the options, for [`undo_tuning`](Self::undo_tuning).
    pub(crate) fn save_options(&mut self) {
        self.before_successor = Some(Tuning::of(self.address.kind(), fd::borrow(&self.fd)));
    }

    /// Sets the options to what they were before the successor, which is dead, got the socket. Returns the names of the options
    /// that the successor had changed.
    pub(crate) fn undo_tuning(&mut self) -> io::Result<Vec<&'static str>> {
        let Some(before) = self.before_successor.take() else { return Ok(Vec::new()) };
        let undone = before.restore(fd::borrow(&self.fd))?;
        // Only netlink shows the backlog of a Unix listener. Setting it again costs less.
        if before.backlog.is_none() {
            create::set_backlog(&self.address, fd::borrow(&self.fd))?;
        }
        Ok(undone)
    }
}

/// Removes the paths that a failed start has created.
pub(crate) fn forget(sockets: &[BoundSocket], who: Who) {
    sockets.iter().filter(|socket| socket.created).for_each(|socket| socket.remove(who));
}
