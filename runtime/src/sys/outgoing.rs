//! A queue of messages that wait for room in a socket, in order, each with its descriptors. No send blocks.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use crate::sys::packet;

/// The pause after a shortage of kernel memory. poll(2) would report the socket as writable at once.
pub(crate) const SHORTAGE_PAUSE: Duration = Duration::from_millis(1);

/// Messages for a socket that keeps message boundaries.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    waiting: VecDeque<(Vec<u8>, Vec<Arc<OwnedFd>>)>,
}

impl Outgoing {
    pub(crate) fn push(&mut self, packet: Vec<u8>, fds: Vec<Arc<OwnedFd>>) {
        self.waiting.push_back((packet, fds));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Drops the waiting messages.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Sends what the socket has room for. The rest stays in order.
    ///
    /// # Errors
    ///
    /// The next message can never be sent, and is dropped. Otherwise the socket would stay writable for it, and its
    /// sender would never wait.
    pub(crate) fn flush(&mut self, socket: impl AsFd) -> nix::Result<()> {
        while let Some((packet, fds)) = self.waiting.front() {
            let numbers: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            let sent = packet::send(&socket, packet, &numbers);
            match sent {
                Err(Errno::EAGAIN) => return Ok(()),
                // A shortage passes. ETOOMANYREFS: this user has too many descriptors on their way, unix(7).
                Err(Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS) => {
                    thread::sleep(SHORTAGE_PAUSE);
                    return Ok(());
                }
                Ok(_) | Err(_) => _ = self.waiting.pop_front(),
            }
            sent?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Instant;

    use nix::libc;

    use super::*;
    use crate::sys::fault;

    fn received(by: &UnixDatagram) -> Vec<u8> {
        let mut buffer = [0; 64];
        let length = by.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    /// poll(2) reports the socket as writable meanwhile, so a caller of poll would spin.
    #[test]
    fn a_shortage_is_waited_for() {
        const ROUNDS: u32 = 20;
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        for errno in [Errno::ENOBUFS, Errno::ENOMEM, Errno::ETOOMANYREFS] {
            let mut outgoing = Outgoing::default();
            outgoing.push(b"commit".to_vec(), Vec::new());
            let began = Instant::now();
            fault::failing(libc::SYS_sendmsg, errno, || {
                (0..ROUNDS).for_each(|_| outgoing.flush(&ours).unwrap());
            });
            assert!(began.elapsed() >= SHORTAGE_PAUSE * ROUNDS, "{errno}");
            assert!(!outgoing.is_empty(), "{errno}");
            outgoing.flush(&ours).unwrap();
            assert!(outgoing.is_empty(), "{errno}");
            assert_eq!(received(&theirs), b"commit");
        }
    }

    /// A message that can never be sent is not retried: the socket has room for others.
    #[test]
    fn what_cannot_be_sent_is_an_error_and_holds_up_nothing() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut outgoing = Outgoing::default();
        outgoing.push(vec![0; 16 << 20], Vec::new());
        outgoing.push(b"failed".to_vec(), Vec::new());
        assert_eq!(outgoing.flush(&ours), Err(Errno::EMSGSIZE));
        outgoing.flush(&ours).unwrap();
        assert!(outgoing.is_empty());
        assert_eq!(received(&theirs), b"failed");
    }
}
