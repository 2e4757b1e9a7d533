//! The channel between a process and its successor: one SOCK_SEQPACKET pair, unix(7).
//!
//! Each process keeps its end for its whole life. So the end of file means that the other process is dead or about to
//! be, unless it has forked. The pidfd shows that it is dead.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

use super::message::{MAX_FDS, MAX_MESSAGE, Malformed, Message};
use crate::sys::outgoing::{Outgoing, SHORTAGE_PAUSE};
use crate::sys::packet::{self, Packet};
use crate::sys::poll::{is_ready, until};

/// One end of the channel.
#[derive(Debug)]
pub(crate) struct Channel {
    fd: OwnedFd,
    /// The messages that wait for room in the socket.
    outgoing: Outgoing,
    /// The error of a message that could not be sent. Later messages are sent all the same: one may report it to the
    /// other process.
    unsent: Option<Errno>,
    buffer: Vec<u8>,
    /// The sender of the last message, if the kernel reports it.
    sender: Option<u32>,
}

/// The result of a read.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message, Vec<OwnedFd>),
    /// A message of a type that this release does not know.
    Unknown(String),
    /// There is no message yet.
    Nothing,
    /// The other process is dead, or has closed its end.
    End,
}

/// A fault of a message or of the channel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error("the other process sent what is not a message: {0}")]
    Garbled(String),
    #[error("the other process sent a message of more than {MAX_MESSAGE} bytes")]
    Oversized,
    #[error(
        "descriptors were lost on the way: the limit of open files (RLIMIT_NOFILE, `ulimit -n`, LimitNOFILE=) is \
         too low"
    )]
    FdsLost,
    #[error("the other process sent {got} descriptors where {expected} belong")]
    WrongCount { expected: usize, got: usize },
    #[error("the channel failed: {0}")]
    Io(#[from] io::Error),
}

impl ChannelError {
    /// Whether the fault is of one message only, so that the next may be valid.
    pub(crate) fn is_of_one_message(&self) -> bool {
        !matches!(self, Self::Io(_))
    }
}

impl Channel {
    /// Both ends, non-blocking and closed on exec. SO_PASSCRED names the sender of each message at this process's end,
    /// unix(7). SO_PEERCRED would name the maker of the pair at either end.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        setsockopt(&ours, sockopt::PassCred, &true)?;
        Ok((Self::new(ours), theirs))
    }

    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, outgoing: Outgoing::default(), unsent: None, buffer: vec![0; MAX_MESSAGE], sender: None }
    }

    /// The sender of the last message. `None` if it has no process ID in this PID namespace.
    pub(crate) fn sender(&self) -> Option<u32> {
        self.sender
    }

    /// Whether the other end is closed in every process.
    pub(crate) fn is_at_its_end(&self) -> bool {
        // poll(2) reports POLLHUP unasked.
        self.has_event(0).unwrap_or(false)
    }

    /// Queues a message that need not wake the other process. It travels ahead of the next message, at the next
    /// [`flush`](Self::flush), or before this process waits.
    pub(crate) fn queue(&mut self, message: &Message) {
        self.outgoing.push(message.encode(), Vec::new());
    }

    /// Queues a message and sends what the socket takes.
    pub(crate) fn send(&mut self, message: &Message) -> io::Result<()> {
        self.send_with(message, Vec::new())
    }

    /// Queues a message with descriptors and sends what the socket takes.
    pub(crate) fn send_with(&mut self, message: &Message, fds: Vec<Arc<OwnedFd>>) -> io::Result<()> {
        debug_assert!(fds.len() <= MAX_FDS);
        self.outgoing.push(message.encode(), fds);
        self.flush()
    }

    /// Sends a message that need not arrive: it is dropped while others wait for room. So a peer that reads nothing
    /// cannot lengthen the queue, however many such messages it causes. Returns whether the message was queued.
    pub(crate) fn send_unless_full(&mut self, message: &Message) -> io::Result<bool> {
        self.flush()?;
        if self.wants_to_send() {
            return Ok(false);
        }
        self.send(message)?;
        Ok(true)
    }

    /// Sends what the socket takes. A message that cannot be sent is dropped, and every later call returns its error.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Err(errno) = self.outgoing.flush(&self.fd) {
            self.unsent.get_or_insert(errno);
        }
        self.unsent.map_or(Ok(()), |errno| Err(errno.into()))
    }

    /// Waits for the end of the channel until the deadline. Returns whether it has come.
    pub(crate) fn ends_by(&self, deadline: Instant) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::empty())];
        // A signal may end the wait early.
        while !self.is_at_its_end() && Instant::now() < deadline {
            match until(&mut fds, Some(deadline)) {
                Ok(()) | Err(_) => {}
            }
        }
        self.is_at_its_end()
    }

    /// Sends what is queued, and waits for room until the deadline.
    pub(crate) fn flush_by(&mut self, deadline: Instant) {
        while self.flush().is_ok() && self.wants_to_send() && Instant::now() < deadline {
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
            match until(&mut fds, Some(deadline)) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Whether something is queued.
    pub(crate) fn wants_to_send(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Takes the next message. It does not wait.
    pub(crate) fn receive(&mut self) -> Result<Received, ChannelError> {
        let packet = loop {
            match packet::receive(self.fd.as_fd(), &mut self.buffer) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                // A shortage passes. The message stays in the queue, and poll(2) returns at once.
                Err(Errno::ENOMEM | Errno::ENOBUFS) => {
                    thread::sleep(SHORTAGE_PAUSE);
                    return Ok(Received::Nothing);
                }
                // The other process is gone with unread data of this one. The kernel reports it once, ahead of the
                // messages in the queue and the end.
                Err(Errno::ECONNRESET) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
                Ok(packet) => break packet,
            }
        };
        let Packet { length, flags, fds, sender } = packet;
        if flags & libc::MSG_CTRUNC != 0 {
            return Err(ChannelError::FdsLost);
        }
        if flags & libc::MSG_TRUNC != 0 {
            return Err(ChannelError::Oversized);
        }
        if length == 0 {
            return self.end();
        }
        self.sender = sender.or(self.sender);
        match Message::decode(&self.buffer[..length]) {
            Ok(message) => {
                let expected = message.descriptors().min(MAX_FDS);
                if fds.len() != expected {
                    return Err(ChannelError::WrongCount { expected, got: fds.len() });
                }
                Ok(Received::Message(message, fds))
            }
            Err(Malformed::UnknownType(name)) => {
                // The peer may be gone. Its later messages are still read, and then its end.
                match self.send_unless_full(&Message::NotUnderstood { unknown: name.clone() }) {
                    Ok(_) | Err(_) => {}
                }
                Ok(Received::Unknown(name))
            }
            Err(Malformed::Garbled(problem)) => Err(ChannelError::Garbled(problem)),
        }
    }

    /// The meaning of a read of no bytes: the end of the channel, or an empty packet. poll(2) tells them apart, because
    /// it reports a closed channel only at the end.
    fn end(&self) -> Result<Received, ChannelError> {
        // poll(2) reports POLLHUP unasked.
        if self.has_event(0)? {
            return Ok(Received::End);
        }
        if self.has_event(libc::POLLRDHUP)? {
            // The other process lives and can send nothing more, shutdown(2).
            return Err(io::Error::other("the other process has shut down its half").into());
        }
        Err(ChannelError::Garbled("an empty packet".to_owned()))
    }

    /// Whether poll(2) reports one of these events, or an event that it reports unasked.
    fn has_event(&self, events: libc::c_short) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::from_bits_retain(events))];
        Ok(is_ready(&mut fds, PollTimeout::ZERO)?)
    }

    /// Waits for the next message until `deadline`. `Nothing` if none came.
    pub(crate) fn receive_by(&mut self, deadline: Instant) -> Result<Received, ChannelError> {
        loop {
            match self.receive()? {
                Received::Nothing if Instant::now() >= deadline => return Ok(Received::Nothing),
                Received::Nothing => {
                    // The other process may wait for this. If it is gone, the read reports it.
                    match self.flush() {
                        Ok(()) | Err(_) => {}
                    }
                    let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
                    until(&mut fds, Some(deadline))?;
                }
                received => return Ok(received),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, getsockopt, send, sendmsg, shutdown};

    use super::*;
    use crate::base::unadopted::Entry;
    use crate::sys::packet::SCM_MAX_FD;

    fn pair() -> (Channel, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        (ours, Channel::new(theirs))
    }

    fn is_cloexec(fd: impl AsFd) -> bool {
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        nix::fcntl::FdFlag::from_bits_retain(flags).contains(nix::fcntl::FdFlag::FD_CLOEXEC)
    }

    fn sockets(count: usize) -> (Message, Vec<Arc<OwnedFd>>) {
        let entry =
            Entry { name: "a".into(), address: "tcp://127.0.0.1:1".into(), inode: None, activated: false };
        let fd = || Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        (Message::Sockets { entries: vec![entry; count] }, (0..count).map(|_| fd()).collect())
    }

    /// K3: the descriptors are closed on exec from the beginning.
    #[test]
    fn descriptors_arrive_in_order_and_closed_on_exec() {
        let (mut old, mut new) = pair();
        assert!(is_cloexec(&old) && is_cloexec(&new));
        let (message, fds) = sockets(MAX_FDS);
        old.send_with(&message, fds).unwrap();
        let Received::Message(received, fds) = new.receive().unwrap() else { panic!("no message") };
        assert_eq!(received, message);
        assert_eq!(fds.len(), MAX_FDS);
        assert!(fds.iter().all(is_cloexec));
    }

    /// H9: a blocking send would delay everything else on the thread.
    #[test]
    fn nothing_blocks_and_nothing_is_lost_when_the_socket_is_full() {
        let (mut old, mut new) = pair();
        let message = Message::Failed { reason: "x".repeat(4000) };
        let mut sent = 0;
        while !old.wants_to_send() {
            old.send(&message).unwrap();
            sent += 1;
        }
        let mut received = 0;
        while received < sent {
            match new.receive().unwrap() {
                Received::Message(got, _) => {
                    assert_eq!(got, message);
                    received += 1;
                }
                Received::Nothing => old.flush().unwrap(),
                other => panic!("{other:?}"),
            }
        }
        assert!(!old.wants_to_send());
    }

    #[test]
    fn the_end_is_seen_after_what_was_sent() {
        let (mut old, mut new) = pair();
        old.send(&Message::Commit).unwrap();
        drop(old);
        assert!(matches!(new.receive().unwrap(), Received::Message(Message::Commit, _)));
        assert!(matches!(new.receive().unwrap(), Received::End));
        assert!(new.send(&Message::Active).is_err());
    }

    /// A1: a fork shares the end of the process that was started. The kernel names the sender.
    #[test]
    fn the_sender_of_a_message_is_known_to_the_predecessor() {
        let (mut old, mut new) = pair();
        assert_eq!(old.sender(), None);
        new.send(&Message::Active).unwrap();
        assert!(matches!(old.receive().unwrap(), Received::Message(Message::Active, _)));
        assert_eq!(old.sender(), Some(std::process::id()));
        old.send(&Message::Commit).unwrap();
        assert!(matches!(new.receive().unwrap(), Received::Message(Message::Commit, _)));
        assert!(!old.is_at_its_end());
        drop(new);
        assert!(old.is_at_its_end());
    }

    #[test]
    fn what_was_sent_and_the_end_are_seen_though_the_other_left_without_reading() {
        let (mut old, mut new) = pair();
        old.send(&Message::Commit).unwrap();
        new.send(&Message::Active).unwrap();
        drop(new);
        assert!(matches!(old.receive().unwrap(), Received::Message(Message::Active, _)));
        assert!(matches!(old.receive().unwrap(), Received::End));
    }

    #[test]
    fn an_unknown_message_is_answered() {
        let (mut old, mut new) = pair();
        send(old.fd.as_raw_fd(), br#"{"type":"sing"}"#, MsgFlags::empty()).unwrap();
        assert!(matches!(new.receive().unwrap(), Received::Unknown(name) if name == "sing"));
        let Received::Message(answer, _) = old.receive().unwrap() else { panic!("no answer") };
        assert_eq!(answer, Message::NotUnderstood { unknown: "sing".into() });
    }

    #[test]
    fn answers_that_nobody_reads_are_dropped_and_what_matters_is_not() {
        let (old, mut new) = pair();
        let packet = format!(r#"{{"type":"{}"}}"#, "sing".repeat(250));
        for _ in 0..10_000 {
            send(old.fd.as_raw_fd(), packet.as_bytes(), MsgFlags::empty()).unwrap();
            assert!(matches!(new.receive().unwrap(), Received::Unknown(_)));
        }
        assert_eq!(new.outgoing.len(), 1, "the answer without room");
        new.send(&Message::Active).unwrap();
        assert_eq!(new.outgoing.len(), 2);
        let mut old = old;
        let mut answers = 0;
        loop {
            match old.receive().unwrap() {
                Received::Message(Message::NotUnderstood { .. }, _) => answers += 1,
                Received::Message(Message::Active, _) => break,
                Received::Nothing => new.flush().unwrap(),
                other => panic!("{other:?}"),
            }
        }
        assert!((1..10_000).contains(&answers), "{answers} answers");
    }

    #[test]
    fn what_is_queued_goes_ahead_of_the_next() {
        let (mut old, mut new) = pair();
        old.queue(&Message::Commit);
        assert!(matches!(new.receive().unwrap(), Received::Nothing));
        assert!(old.send_unless_full(&Message::Stop).unwrap(), "nothing waits for room");
        assert!(matches!(new.receive().unwrap(), Received::Message(Message::Commit, _)));
        assert!(matches!(new.receive().unwrap(), Received::Message(Message::Stop, _)));
    }

    #[test]
    fn an_answer_that_finds_nobody_hides_nothing() {
        let (old, mut new) = pair();
        send(old.fd.as_raw_fd(), br#"{"type":"sing"}"#, MsgFlags::empty()).unwrap();
        send(old.fd.as_raw_fd(), &Message::Commit.encode(), MsgFlags::empty()).unwrap();
        drop(old);
        assert!(matches!(new.receive().unwrap(), Received::Unknown(_)));
        assert!(matches!(new.receive().unwrap(), Received::Message(Message::Commit, _)));
        assert!(matches!(new.receive().unwrap(), Received::End));
    }

    #[test]
    fn garbage_truncation_and_wrong_counts_are_named() {
        let (old, mut new) = pair();
        send(old.fd.as_raw_fd(), b"{\"type\":\"prep", MsgFlags::empty()).unwrap();
        assert!(matches!(new.receive(), Err(ChannelError::Garbled(_))));
        send(old.fd.as_raw_fd(), &vec![b' '; MAX_MESSAGE + 1], MsgFlags::empty()).unwrap();
        assert!(matches!(new.receive(), Err(ChannelError::Oversized)));
        let (mut old, mut new) = pair();
        let (message, mut fds) = sockets(2);
        fds.pop();
        old.send_with(&message, fds).unwrap();
        assert!(matches!(new.receive(), Err(ChannelError::WrongCount { expected: 2, got: 1 })));
    }

    /// B7: the process that receives too many descriptors closes them. It may serve on for years.
    #[test]
    fn more_descriptors_than_a_message_may_have_are_an_error_and_closed() {
        for (message, expected) in [(Message::Active, 0), (sockets(SCM_MAX_FD).0, MAX_FDS)] {
            let (mut old, mut new) = pair();
            let (mut reader, writer) = UnixStream::pair().unwrap();
            reader.set_nonblocking(true).unwrap();
            let control = [ControlMessage::ScmRights(&[writer.as_raw_fd(); SCM_MAX_FD])];
            let packet = message.encode();
            let data = [IoSlice::new(&packet)];
            sendmsg::<()>(new.fd.as_raw_fd(), &data, &control, MsgFlags::empty(), None).unwrap();
            drop(writer);
            let wrong = old.receive().unwrap_err().to_string();
            let said = format!("sent {SCM_MAX_FD} descriptors where {expected} belong");
            assert!(wrong.ends_with(&said), "{wrong}");
            assert_eq!(reader.read(&mut [0]).unwrap(), 0, "its other end is closed");
            new.send(&Message::Active).unwrap();
            assert!(matches!(old.receive().unwrap(), Received::Message(Message::Active, _)));
        }
    }

    /// B10: the end means that the other process is dead, and a dead process gets a successor.
    #[test]
    fn an_empty_packet_is_not_the_end() {
        let (mut old, mut new) = pair();
        send(old.fd.as_raw_fd(), b"", MsgFlags::empty()).unwrap();
        old.send(&Message::Commit).unwrap();
        let garbled = new.receive().unwrap_err();
        assert!(garbled.is_of_one_message(), "{garbled}");
        assert!(garbled.to_string().ends_with("an empty packet"), "{garbled}");
        assert!(matches!(new.receive().unwrap(), Received::Message(Message::Commit, _)));
        // A live process that has shut down its half is not at its end either. poll(2) reports the shutdown without
        // end.
        shutdown(old.fd.as_raw_fd(), Shutdown::Write).unwrap();
        let silent = new.receive().unwrap_err();
        assert!(!silent.is_of_one_message(), "{silent}");
        drop(old);
        assert!(matches!(new.receive().unwrap(), Received::End));
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let (_old, mut new) = pair();
        let received = new.receive_by(Instant::now() + Duration::from_millis(20)).unwrap();
        assert!(matches!(received, Received::Nothing));
    }

    #[test]
    fn it_keeps_message_boundaries() {
        let (old, _new) = pair();
        assert_eq!(getsockopt(&old, sockopt::SockType).unwrap(), SockType::SeqPacket);
    }
}
