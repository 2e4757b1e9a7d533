//! Packets of a socket that keeps message boundaries, each with its descriptors, unix(7).
#![allow(unsafe_code)]

use std::io::IoSlice;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::slice;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// The most descriptors that the kernel lets a peer send with one packet, unix(7).
pub(crate) const SCM_MAX_FD: usize = 253;
/// Room for that many descriptors and for the credentials of the sender, so that none is lost.
const CONTROL_SPACE: libc::c_uint =
    control_space(SCM_MAX_FD * size_of::<RawFd>()) + control_space(size_of::<libc::ucred>());

const fn control_space(length: usize) -> libc::c_uint {
    // SAFETY: CMSG_SPACE only computes a number.
    unsafe { libc::CMSG_SPACE(length as libc::c_uint) }
}

/// sendmsg(2) without waiting.
pub(crate) fn send(socket: impl AsFd, data: &[u8], fds: &[RawFd]) -> nix::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    loop {
        let sent = sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(data)], control, flags, None);
        match sent {
            Err(Errno::EINTR) => {}
            sent => return sent.map(drop),
        }
    }
}

/// A packet as it arrived.
pub(crate) struct Packet {
    pub(crate) length: usize,
    /// The flags of recvmsg(2), such as `MSG_TRUNC` and `MSG_CTRUNC`.
    pub(crate) flags: libc::c_int,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) sender: Option<u32>,
}

/// recvmsg(2) without waiting. Every descriptor that the kernel has installed is in the packet. So a refused packet
/// leaves none open, with too many descriptors as with too few free numbers in this process.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<Packet> {
    // Made of `usize`, which has the alignment of a `cmsghdr`.
    let mut control = [0_usize; (CONTROL_SPACE as usize).div_ceil(size_of::<usize>())];
    let mut data = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: it is a C struct of numbers and pointers, for which zeroes are valid.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut data;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _; // A `socklen_t` with musl.
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: what `header` points to lives until the end of this function, with the lengths in it.
    let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let length = Errno::result(result)?.unsigned_abs();
    let (mut fds, mut sender) = (Vec::new(), None);
    // SAFETY: the kernel has set the length of the contents of `control`.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: it is null, or points to a header that is in `control` as a whole.
    while let Some(message) = unsafe { next.as_ref() } {
        if (message.cmsg_level, message.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: the data follow the header.
            let data: *const RawFd = unsafe { libc::CMSG_DATA(next) }.cast();
            // SAFETY: CMSG_LEN only computes a number.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            let length: usize = message.cmsg_len as _;
            let count = length.saturating_sub(head) / size_of::<RawFd>();
            // SAFETY: the length of the message covers `count` numbers, and the header before them is aligned for more.
            let numbers = unsafe { slice::from_raw_parts(data, count) };
            // SAFETY: the kernel has just installed these descriptors for this message. No other code knows their
            // numbers.
            fds.extend(numbers.iter().map(|number| unsafe { OwnedFd::from_raw_fd(*number) }));
        } else if (message.cmsg_level, message.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) {
            // SAFETY: the data follow the header.
            let data: *const libc::ucred = unsafe { libc::CMSG_DATA(next) }.cast();
            // SAFETY: it is a message of credentials, and the kernel has stored them whole.
            let credentials = unsafe { data.read_unaligned() };
            sender = u32::try_from(credentials.pid).ok().filter(|pid| *pid != 0);
        }
        // SAFETY: `next` is a header in the buffer that `header` describes.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    Ok(Packet { length, flags: header.msg_flags, fds, sender })
}
