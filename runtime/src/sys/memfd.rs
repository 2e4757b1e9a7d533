//! A sealed memfd: bytes for another process, which can rely on it that nobody changes or cuts them, memfd_create(2).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Makes a memfd of these bytes. From then on nobody can change it, not even this process.
pub(crate) fn sealed(parts: &[&[u8]]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // A machine may allow only memfds that nobody can execute, vm.memfd_noexec. A kernel before 6.3 does not know the flag.
    let fd = match memfd_create(c"tableflip", flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create(c"tableflip", flags),
        made => made,
    }?;
    let mut file = File::from(fd);
    parts.iter().try_for_each(|part| file.write_all(part))?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(all_seals()))?;
    Ok(file.into())
}

/// Reads a memfd of exactly this length that another process has sealed.
///
/// # Errors
///
/// `InvalidData` for a descriptor that is no memfd, has not every seal or another length: another process could make such a
/// read fail or hang, or change what was checked.
pub(crate) fn read(fd: OwnedFd, length: usize) -> io::Result<Vec<u8>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let seals = fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS).map_err(|_| wrong("not a memfd"))?;
    if !SealFlag::from_bits_retain(seals).contains(all_seals()) {
        return Err(wrong("a memfd that is not sealed"));
    }
    let file = File::from(fd);
    if file.metadata()?.len() != length as u64 {
        return Err(wrong("a memfd of another length"));
    }
    let mut data = vec![0; length];
    file.read_exact_at(&mut data, 0)?;
    Ok(data)
}

fn all_seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read() {
        for parts in [&[&b"state"[..], b"", b" and unread"][..], &[], &[&[7; 300_000]]] {
            let all = parts.concat();
            assert_eq!(read(sealed(parts).unwrap(), all.len()).unwrap(), all);
        }
        let file = File::from(sealed(&[b"state"]).unwrap());
        assert_eq!((&file).write(b"other").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(file.set_len(0).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn what_may_change_is_refused() {
        let kind = |fd: OwnedFd| read(fd, 5).unwrap_err().to_string();
        let flags = MFdFlags::MFD_ALLOW_SEALING;
        let partly = |seals| {
            let mut file = File::from(memfd_create(c"test", flags).unwrap());
            file.write_all(b"state").unwrap();
            fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
            OwnedFd::from(file)
        };
        for left_out in all_seals().iter() {
            assert_eq!(kind(partly(all_seals() - left_out)), "a memfd that is not sealed", "{left_out:?}");
        }
        assert_eq!(kind(sealed(&[b"stat"]).unwrap()), "a memfd of another length");
        assert_eq!(kind(sealed(&[b"states"]).unwrap()), "a memfd of another length");
        // A read of a pipe would wait for ever.
        let (pipe, _writer) = io::pipe().unwrap();
        assert_eq!(kind(pipe.into()), "not a memfd");
        assert_eq!(kind(File::open("/dev/zero").unwrap().into()), "not a memfd");
    }
}
