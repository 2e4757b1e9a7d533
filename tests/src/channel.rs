//! One end of a handover channel, for a test or a program that plays a predecessor or a successor.
//!
//! It is written from `docs/protocol.md` and shares no code with the crate, so that a mistake in the crate's own two
//! ends, which would understand each other all the same, does not hide in it. Every wait has a deadline.
#![allow(unsafe_code)]

use std::env;
use std::fmt;
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use processes::{DEADLINE, is_readable_within, is_writable_within};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, sendmsg, socket_with, socketpair,
};
use serde_json::Value;

/// The variable that names a successor's end.
pub const HANDOVER: &str = "TABLEFLIP_HANDOVER";
/// The largest packet.
pub const MAX_MESSAGE: usize = 65_536;

/// How many descriptors this end takes with one packet: more than the protocol allows, so that a test sees too many.
const ROOM: usize = 128;

/// One end.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

/// A packet.
pub struct Packet {
    /// What it says.
    pub text: String,
    /// What travelled with it.
    pub fds: Vec<OwnedFd>,
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} descriptors", self.text, self.fds.len())
    }
}

impl Channel {
    /// The end that this process was started with. It is taken once.
    pub fn inherited() -> Self {
        let number = env::var(HANDOVER).expect("a predecessor sets the variable");
        let (number, addressee) = number.split_once(':').unwrap_or((&number, ""));
        assert!(addressee.is_empty() || addressee == std::process::id().to_string(), "{addressee}");
        let number = number.parse().expect("the number of a descriptor");
        // SAFETY: the number came through exec and is open, and nobody else in this process takes it.
        Self { fd: unsafe { OwnedFd::from_raw_fd(number) } }
    }

    /// Waits for a channel to [`connect_to`] at `listener`.
    pub fn accept(listener: &OwnedFd) -> Self {
        wait_to_read(listener);
        let fd = accept_with(listener, SocketFlags::CLOEXEC).expect("somebody has connected");
        Self { fd }
    }

    /// Sends a message.
    pub fn send(&self, message: &Value) {
        self.send_packet(message.to_string().as_bytes(), &[]);
    }

    /// Sends a message with descriptors.
    pub fn send_with(&self, message: &Value, fds: &[BorrowedFd<'_>]) {
        self.send_packet(message.to_string().as_bytes(), fds);
    }

    /// Sends any bytes, and waits while there is no room. To a peer that is gone it sends nothing.
    pub fn send_packet(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) {
        while !self.try_send_packet(packet, fds) {
            let is_writable = is_writable_within(DEADLINE, &self.fd).expect("poll");
            assert!(is_writable, "the channel has no room within {DEADLINE:?}");
        }
    }

    /// Sends any bytes, if there is room; whether there was. To a peer that is gone it sends nothing.
    pub fn try_send_packet(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ROOM))];
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "too many descriptors");
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.fd, &[IoSlice::new(packet)], &mut control, flags) {
                Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => return true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(error) => panic!("send: {error}"),
            }
        }
    }

    /// Waits for a packet; `None` at the end.
    pub fn receive(&self) -> Option<Packet> {
        let (bytes, fds) = self.receive_bytes()?;
        Some(Packet { text: String::from_utf8(bytes).expect("JSON is UTF-8"), fds })
    }

    /// The same for a packet that is not JSON alone.
    fn receive_bytes(&self) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        wait_to_read(&self.fd);
        let mut buffer = vec![0; MAX_MESSAGE + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ROOM))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let bytes = loop {
            let mut data = [IoSliceMut::new(&mut buffer)];
            match recvmsg(&self.fd, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => break message.bytes,
                // The other one is gone and has left something of ours unread. It is said once; what it had sent
                // itself comes after that.
                Err(Errno::CONNRESET) => {}
                Err(error) => panic!("receive: {error}"),
            }
        };
        if bytes == 0 {
            return None;
        }
        let fds = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        });
        let fds = fds.collect();
        buffer.truncate(bytes);
        Some((buffer, fds))
    }

    /// Waits for a message and asserts that it is of this type.
    pub fn expect(&self, name: &str) -> Value {
        let packet = self.receive().unwrap_or_else(|| panic!("the end where `{name}` belongs"));
        let message: Value = serde_json::from_str(&packet.text).expect("JSON");
        assert_eq!(message["type"], name, "{packet:?}");
        message
    }

    /// Takes messages until one of this type; what is before it is dropped.
    pub fn wait_for(&self, name: &str) -> Value {
        loop {
            let packet = self.receive().unwrap_or_else(|| panic!("the end, and there was no `{name}`"));
            let message: Value = serde_json::from_str(&packet.text).expect("JSON");
            if message["type"] == name {
                return message;
            }
        }
    }
}

/// One end of a link, over which open connections move.
#[derive(Debug)]
pub struct Link(Channel);

impl Link {
    /// This end, and the one that goes to the other process.
    pub fn pair() -> (Self, OwnedFd) {
        let ends = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = ends.expect("a pair");
        (Self::over(ours), theirs)
    }

    /// The end that came from the other process.
    pub fn over(fd: OwnedFd) -> Self {
        Self(Channel { fd })
    }

    /// Sends a packet with this head.
    pub fn send(&self, head: &Value, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        let head = head.to_string();
        let length = u32::try_from(head.len()).expect("a short head").to_le_bytes();
        self.send_bytes(&[&length, head.as_bytes(), payload].concat(), fds);
    }

    /// Sends any bytes.
    pub fn send_bytes(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) {
        self.0.send_packet(packet, fds);
    }

    /// Waits for a packet: its head, and the descriptors; `None` at the end.
    pub fn receive(&self) -> Option<(Value, Vec<OwnedFd>)> {
        let (bytes, fds) = self.0.receive_bytes()?;
        let (length, rest) = bytes.split_first_chunk().expect("a length");
        let head = &rest[..u32::from_le_bytes(*length) as usize];
        Some((serde_json::from_slice(head).expect("JSON"), fds))
    }
}

/// The process that a successor takes for its predecessor. It does nothing; dropped, it dies.
///
/// A successor asks the kernel who made the other end of its channel, SO_PEERCRED in unix(7): of one that it has connected to,
/// the process that listened there. So a test can end the channel and let the predecessor live, and the other way round.
#[derive(Debug)]
pub struct Predecessor(Child);

impl Predecessor {
    /// The number of this process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Predecessor {
    fn drop(&mut self) {
        // It is a child that nobody has waited for: it is there to be killed.
        self.0.kill().expect("a child");
        self.0.wait().expect("a child");
    }
}

/// A place in the file system where a channel can be connected to. The predecessor is a process of `program`, which is that of
/// `with_channel`.
pub fn listen_at(program: &str, path: &Path) -> (OwnedFd, Predecessor) {
    let address = SocketAddrUnix::new(path).expect("a path that is short");
    let fd = seqpacket();
    bind(&fd, &address).expect("a path that nothing is at");
    let (mut told, tells) = std::io::pipe().expect("a pipe");
    let listens = fd.try_clone().expect("a descriptor more");
    let predecessor = Command::new(program)
        .arg("predecessor")
        .stdin(Stdio::piped())
        .stdout(listens)
        .stderr(tells)
        .spawn()
        .expect("the program runs");
    // The command has let go of its end of the pipe by now.
    told.read_exact(&mut [0]).expect("it listens");
    (fd, Predecessor(predecessor))
}

/// What the process of a [`Predecessor`] does: listens at its stdout, says so, and lives as long as the test.
pub fn be_a_predecessor() {
    listen(rustix::stdio::stdout(), 1).expect("a bound socket");
    rustix::io::write(rustix::stdio::stderr(), b".").expect("somebody waits for it");
    while !matches!(rustix::io::read(rustix::stdio::stdin(), &mut [0_u8]), Ok(0)) {}
}

/// The other end of a channel.
pub fn connect_to(path: &Path) -> OwnedFd {
    let address = SocketAddrUnix::new(path).expect("a path that is short");
    let fd = seqpacket();
    connect(&fd, &address).expect("somebody listens there");
    fd
}

fn seqpacket() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket")
}

fn wait_to_read(fd: impl AsFd) {
    let is_readable = is_readable_within(DEADLINE, fd).expect("poll");
    assert!(is_readable, "nothing came of the channel in {DEADLINE:?}");
}
