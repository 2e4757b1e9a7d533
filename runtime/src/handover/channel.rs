//! The channel between a process and its successor: one SOCK_SEQPACKET pair, unix(7).
//!
//! It lives until one of the two is dead, and its end of file is how the other one learns of that.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg,
    sendmsg, socketpair,
};

use super::message::{MAX_FDS, MAX_MESSAGE, Malformed, Message};
use crate::outgoing::{Outgoing, SHORTAGE_PAUSE};
use crate::poll;

/// One end of the channel.
#[derive(Debug)]
pub(crate) struct Channel {
    fd: OwnedFd,
    /// What the socket had no room for yet.
    outgoing: Outgoing,
    /// Why a message could not be sent. What comes after it is sent all the same: it may say so to the other process.
    unsent: Option<Errno>,
    buffer: Vec<u8>,
}

/// What came of a look at the channel.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message, Vec<OwnedFd>),
    /// A message of a type that this release does not know, of this name.
    Unknown(String),
    /// Nothing for now.
    Nothing,
    /// The other process is dead, or has closed its end.
    End,
}

/// What is wrong with a message, or with the channel.
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
    /// Whether the next message may be a good one.
    pub(crate) fn is_of_one_message(&self) -> bool {
        !matches!(self, Self::Io(_))
    }
}

impl Channel {
    /// Both ends; each is closed on exec, and neither blocks.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self::new(ours), theirs))
    }

    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, outgoing: Outgoing::default(), unsent: None, buffer: vec![0; MAX_MESSAGE] }
    }

    /// Queues a message for which the other process need not wake: it travels ahead of the next one, at the next
    /// [`flush`](Self::flush), or before this process waits.
    pub(crate) fn queue(&mut self, message: &Message) {
        self.outgoing.push(message.encode(), Vec::new());
    }

    /// Queues a message and sends what the socket takes.
    pub(crate) fn send(&mut self, message: &Message) -> io::Result<()> {
        self.send_with(message, Vec::new())
    }

    /// The same, with descriptors.
    pub(crate) fn send_with(&mut self, message: &Message, fds: Vec<Arc<OwnedFd>>) -> io::Result<()> {
        debug_assert!(fds.len() <= MAX_FDS);
        self.outgoing.push(message.encode(), fds);
        self.flush()
    }

    /// The same for a message that need not arrive: with others still waiting for room it is dropped. So a peer that
    /// reads nothing makes the queue no longer, however often it gives cause for one. Returns whether it was queued.
    pub(crate) fn send_unless_full(&mut self, message: &Message) -> io::Result<bool> {
        self.flush()?;
        if self.wants_to_send() {
            return Ok(false);
        }
        self.send(message)?;
        Ok(true)
    }

    /// Sends what is queued, as far as the socket takes it. A message that cannot be sent is dropped, and its error is that of
    /// every later call.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Err(errno) = self.outgoing.flush(&self.fd) {
            self.unsent.get_or_insert(errno);
        }
        self.unsent.map_or(Ok(()), |errno| Err(errno.into()))
    }

    /// Whether something is queued.
    pub(crate) fn wants_to_send(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Takes the next message, without waiting for it.
    pub(crate) fn receive(&mut self) -> Result<Received, ChannelError> {
        let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
        let mut data = [IoSliceMut::new(&mut self.buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let result = loop {
            match recvmsg::<UnixAddr>(self.fd.as_raw_fd(), &mut data, Some(&mut control), flags) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                // A shortage that passes; the message is where it was, and poll(2) says so at once.
                Err(Errno::ENOMEM | Errno::ENOBUFS) => {
                    thread::sleep(SHORTAGE_PAUSE);
                    return Ok(Received::Nothing);
                }
                // The other process is gone with data of ours unread. The kernel says so once, ahead of what is in the
                // queue still; then come those messages, and the end.
                Err(Errno::ECONNRESET) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
                Ok(result) => break result,
            }
        };
        let (length, flags) = (result.bytes, result.flags);
        let mut fds = Vec::new();
        // With MSG_CTRUNC nix hands out nothing, though the kernel has installed what had room: these few stay
        // open in a process that is about to give up.
        if !flags.contains(MsgFlags::MSG_CTRUNC) {
            for message in result.cmsgs().map_err(io::Error::from)? {
                if let ControlMessageOwned::ScmRights(raw) = message {
                    // SAFETY: the kernel has just installed these descriptors for this message; nobody else knows
                    // their numbers.
                    fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
        }
        if flags.contains(MsgFlags::MSG_CTRUNC) {
            return Err(ChannelError::FdsLost);
        }
        if flags.contains(MsgFlags::MSG_TRUNC) {
            return Err(ChannelError::Oversized);
        }
        if length == 0 {
            return Ok(Received::End);
        }
        match Message::decode(&self.buffer[..length]) {
            Ok(message) => {
                let expected = message.descriptors();
                if fds.len() != expected {
                    return Err(ChannelError::WrongCount { expected, got: fds.len() });
                }
                Ok(Received::Message(message, fds))
            }
            Err(Malformed::UnknownType(name)) => {
                // To a peer that is gone there is nobody to say it to. What it said after this message is read all the
                // same, and then its end.
                match self.send_unless_full(&Message::NotUnderstood { unknown: name.clone() }) {
                    Ok(_) | Err(_) => {}
                }
                Ok(Received::Unknown(name))
            }
            Err(Malformed::Garbled(problem)) => Err(ChannelError::Garbled(problem)),
        }
    }

    /// Waits for the next message until `deadline`; `Nothing` if there was none.
    pub(crate) fn receive_by(&mut self, deadline: Instant) -> Result<Received, ChannelError> {
        loop {
            match self.receive()? {
                Received::Nothing if Instant::now() >= deadline => return Ok(Received::Nothing),
                Received::Nothing => {
                    // What the other one may be waiting for. If it is gone, the read tells.
                    match self.flush() {
                        Ok(()) | Err(_) => {}
                    }
                    let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
                    poll::until(&mut fds, Some(deadline))?;
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
    use std::time::Duration;

    use nix::sys::socket::{getsockopt, send, sockopt};

    use super::super::message::Entry;
    use super::*;

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

    /// K3: they are closed on exec from the moment that they are there.
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

    /// H9: a send that waits would keep the thread from everything else.
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
        assert_eq!(new.outgoing.len(), 1, "the one that found no room");
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

    #[test]
    fn more_descriptors_than_fit_are_an_error_and_not_a_silence() {
        let (old, mut new) = pair();
        let fds: Vec<_> = sockets(MAX_FDS + 8).1;
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let packet = sockets(MAX_FDS + 8).0.encode();
        let data = [IoSlice::new(&packet)];
        sendmsg::<UnixAddr>(
            old.fd.as_raw_fd(),
            &data,
            &[ControlMessage::ScmRights(&raw)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        assert!(matches!(new.receive(), Err(ChannelError::FdsLost)));
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
