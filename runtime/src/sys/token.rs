//! A token that two processes hold and only one of them can take: an eventfd with the count 1, eventfd(2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::read;

#[derive(Debug)]
pub(crate) struct Token(Arc<OwnedFd>);

impl Token {
    /// A token that is still to be taken.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(1, flags)?.into())))
    }

    /// The token that another process has sent.
    ///
    /// # Errors
    ///
    /// The descriptor cannot be made non-blocking.
    pub(crate) fn received(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(Arc::new(fd)))
    }

    /// The descriptor to send to the other process.
    pub(crate) fn share(&self) -> Arc<OwnedFd> {
        self.0.clone()
    }

    /// Takes the token. Returns false if the other process has it.
    ///
    /// # Errors
    ///
    /// The descriptor is no token.
    pub(crate) fn take(&self) -> io::Result<bool> {
        loop {
            match read(self.0.as_fd(), &mut [0; 8]) {
                Ok(8) => return Ok(true),
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_of_two_takes_it() {
        let token = Token::new().unwrap();
        let other = Token::received(token.share().try_clone().unwrap()).unwrap();
        assert!(other.take().unwrap());
        assert!(!token.take().unwrap() && !other.take().unwrap());
    }

    #[test]
    fn what_is_no_token_neither_blocks_nor_passes_for_one() {
        let (pipe, mut writer) = io::pipe().unwrap();
        let token = Token::received(pipe.into()).unwrap();
        assert!(!token.take().unwrap());
        io::Write::write_all(&mut writer, b"four").unwrap();
        assert!(token.take().is_err());
        let (_reader, writer) = io::pipe().unwrap();
        assert!(Token::received(writer.into()).unwrap().take().is_err());
    }
}
