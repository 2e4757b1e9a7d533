//! The packets of a link, over which open connections move to the successor: one SOCK_SEQPACKET pair, unix(7), beside the
//! channel.
//!
//! A packet is the length of a head as four bytes, little-endian, the head in JSON, and what the head counts. Unknown fields
//! are ignored, and so is a packet of an unknown type. `docs/protocol.md` describes every packet.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socketpair, sockopt};
use serde::{Deserialize, Serialize};

use crate::sys::packet::{self, Packet};

/// The largest packet, in bytes. The kernel refuses a much larger one.
pub(crate) const MAX_PACKET: usize = 128 * 1024;
/// How many connections one packet offers.
pub(crate) const MAX_OFFERS: usize = 64;
/// The most bytes of a connection that travel in the packet; more travel in a memfd.
pub(crate) const MAX_INLINE: usize = 32 * 1024;
/// The most bytes of a connection that travel at all.
pub(crate) const MAX_PAYLOAD: usize = 64 << 20;
/// How many connections one answer names.
pub(crate) const MAX_IDS: usize = 4096;

/// The number of a connection in its link.
pub(crate) type Id = u64;

/// A head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Head {
    /// From the giver: connections, in the order of their numbers. Each has its descriptor, and after it that of its memfd.
    Offers { offers: Vec<Entry> },
    /// From the giver: these connections stay with it.
    Withdrawn { ids: Vec<Id> },
    /// From the taker: it owns these connections.
    Taken { ids: Vec<Id> },
    /// From the taker: it does not take these connections.
    Refused { ids: Vec<Id> },
}

/// An offered connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: Id,
    /// The listener, by its place in the offer of the sockets.
    pub(crate) listener: usize,
    pub(crate) kind: String,
    /// The address of the client of a TCP connection. getpeername(2) fails once the client has reset the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<SocketAddr>,
    /// How many bytes of state follow.
    #[serde(default)]
    pub(crate) state: usize,
    /// How many bytes follow them that were read of the connection and not used.
    #[serde(default)]
    pub(crate) unread: usize,
    /// The bytes are in a memfd.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) memfd: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Entry {
    /// The number of bytes of the state and of what was read, if it is one that travels.
    fn payload(&self) -> Option<usize> {
        self.state.checked_add(self.unread).filter(|length| *length <= MAX_PAYLOAD)
    }

    /// How many of these bytes are in the packet.
    fn inline(&self) -> Option<usize> {
        self.payload().map(|length| if self.memfd { 0 } else { length })
    }
}

/// What was read of a link.
#[derive(Debug)]
pub(crate) enum Received {
    Packet(Incoming),
    /// A packet of a later release, or one that is no good.
    Useless,
    Nothing,
    /// The system is short of memory: something may be there.
    Shortage,
    End,
}

/// A packet as it arrived.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) head: Head,
    pub(crate) payload: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Done,
    /// There is no room in the socket, or the system is short of memory or of descriptors on their way. A later try may succeed.
    Later {
        is_shortage: bool,
    },
    /// The other end is closed, or takes no packets.
    Never,
}

/// Both ends of a link, non-blocking and closed on exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Whether a descriptor of another process is an end of a link.
pub(crate) fn is_link(fd: &OwnedFd) -> bool {
    getsockopt(fd, sockopt::SockType) == Ok(SockType::SeqPacket)
}

/// The bytes of a packet up to the payload.
pub(crate) fn encode(head: &Head) -> Vec<u8> {
    let head = serde_json::to_vec(head).expect("strings, numbers and lists of them always encode");
    let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes()[..], &head].concat()
}

pub(crate) fn send(link: &OwnedFd, data: &[u8], fds: &[impl AsFd]) -> Sent {
    use std::os::fd::AsRawFd;
    let numbers: Vec<_> = fds.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    match packet::send(link, data, &numbers) {
        Ok(()) => Sent::Done,
        Err(Errno::EAGAIN) => Sent::Later { is_shortage: false },
        Err(Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS) => Sent::Later { is_shortage: true },
        Err(_) => Sent::Never,
    }
}

/// Takes the next packet. It does not wait. The descriptors that were lost for want of numbers are missing at the end of `fds`.
pub(crate) fn receive(link: &OwnedFd, buffer: &mut [u8]) -> Received {
    let packet = loop {
        match packet::receive(link.as_fd(), buffer) {
            // The other process is gone with unread data of this one. The kernel reports it once, ahead of what is queued.
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(Errno::EAGAIN) => return Received::Nothing,
            Err(Errno::ENOMEM | Errno::ENOBUFS) => return Received::Shortage,
            Err(_) => return Received::End,
            Ok(packet) => break packet,
        }
    };
    let Packet { length, flags, fds, .. } = packet;
    if flags & nix::libc::MSG_TRUNC != 0 {
        return Received::Useless;
    }
    if length == 0 {
        return Received::End;
    }
    decode(&buffer[..length], fds).map_or(Received::Useless, Received::Packet)
}

/// `None` for a packet of a later release, and for one that does not add up.
fn decode(data: &[u8], fds: Vec<OwnedFd>) -> Option<Incoming> {
    let (length, rest) = data.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (head, payload) = rest.split_at_checked(length)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    if let Head::Offers { offers } = &head {
        if !offers.iter().is_sorted_by(|one, next| one.id < next.id) {
            return None;
        }
        let inline = offers.iter().try_fold(0_usize, |sum, entry| sum.checked_add(entry.inline()?));
        if inline != Some(payload.len()) {
            return None;
        }
        let most = offers.len() + offers.iter().filter(|entry| entry.memfd).count();
        if fds.len() > most {
            return None;
        }
    }
    Some(Incoming { head, payload: payload.to_vec(), fds })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn entry(id: Id, state: usize, unread: usize) -> Entry {
        Entry { id, listener: 0, kind: "line/1".into(), peer: None, state, unread, memfd: false }
    }

    fn decoded(head: &Head, payload: &[u8], fds: usize) -> Option<Incoming> {
        let fds = (0..fds).map(|_| File::open("/dev/null").unwrap().into()).collect();
        decode(&[&encode(head), payload].concat(), fds)
    }

    /// The packets that release 0.1.0 sends. Every later release understands these bytes.
    #[test]
    fn recorded_packets_are_understood() {
        let peer = Some("[fe80::1%2]:80".parse().unwrap());
        for (text, head) in [
            (
                r#"{"type":"offers","offers":[{"id":7,"listener":1,"kind":"http/1.1","peer":"[fe80::1%2]:80","state":0,"unread":0}]}"#,
                Head::Offers {
                    offers: vec![Entry {
                        id: 7,
                        listener: 1,
                        kind: "http/1.1".into(),
                        peer,
                        state: 0,
                        unread: 0,
                        memfd: false,
                    }],
                },
            ),
            (r#"{"type":"withdrawn","ids":[1,2]}"#, Head::Withdrawn { ids: vec![1, 2] }),
            (r#"{"type":"taken","ids":[1]}"#, Head::Taken { ids: vec![1] }),
            (r#"{"type":"refused","ids":[18446744073709551615]}"#, Head::Refused { ids: vec![u64::MAX] }),
        ] {
            assert_eq!(serde_json::to_string(&head).unwrap(), text);
            assert_eq!(serde_json::from_str::<Head>(text).unwrap(), head);
        }
        let later = r#"{"type":"taken","ids":[1],"news":true}"#;
        assert_eq!(serde_json::from_str::<Head>(later).unwrap(), Head::Taken { ids: vec![1] });
    }

    #[test]
    fn what_does_not_add_up_is_no_packet() {
        let offers = |offers| Head::Offers { offers };
        let two = offers(vec![entry(1, 3, 2), Entry { memfd: true, ..entry(2, 9, 9) }]);
        assert_eq!(decoded(&two, b"12345", 3).unwrap().fds.len(), 3);
        assert_eq!(decoded(&two, b"12345", 0).unwrap().fds.len(), 0, "they may be lost on the way");
        assert!(decoded(&two, b"1234", 3).is_none());
        assert!(decoded(&two, b"123456", 3).is_none());
        assert!(decoded(&two, b"12345", 4).is_none());
        assert!(decoded(&offers(vec![entry(1, usize::MAX, 1)]), b"", 1).is_none());
        assert!(
            decoded(&offers(vec![entry(1, usize::MAX / 2, 0), entry(2, usize::MAX / 2, 2)]), b"", 1)
                .is_none()
        );
        let memfd = |state, unread| Entry { memfd: true, ..entry(1, state, unread) };
        assert!(decoded(&offers(vec![memfd(MAX_PAYLOAD, 0)]), b"", 2).is_some());
        assert!(decoded(&offers(vec![memfd(MAX_PAYLOAD, 1)]), b"", 2).is_none());
        assert!(decoded(&offers(vec![memfd(usize::MAX, 1)]), b"", 2).is_none());
        assert!(decoded(&offers(vec![entry(1, 0, 0), entry(1, 0, 0)]), b"", 2).is_none());
        for garbage in [&b""[..], b"1", b"\xff\xff\xff\xff{}", b"\x02\0\0\0{}", b"\x02\0\0\0[]", b"\0\0\0\0"]
        {
            assert!(decode(garbage, Vec::new()).is_none(), "{garbage:?}");
        }
    }

    #[test]
    fn the_end_comes_after_what_was_sent() {
        let (ours, theirs) = pair().unwrap();
        assert!(is_link(&ours));
        let mut buffer = vec![0; MAX_PACKET];
        let taken = encode(&Head::Taken { ids: vec![1] });
        let none: [&OwnedFd; 0] = [];
        assert_eq!(send(&ours, &taken, &none), Sent::Done);
        assert_eq!(send(&theirs, &taken, &none), Sent::Done);
        drop(theirs);
        assert_eq!(send(&ours, &taken, &none), Sent::Never);
        let Received::Packet(first) = receive(&ours, &mut buffer) else { panic!("it was sent") };
        assert_eq!(first.head, Head::Taken { ids: vec![1] });
        assert!(matches!(receive(&ours, &mut buffer), Received::End));
    }
}
