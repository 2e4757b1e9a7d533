//! The paths of Unix sockets: a stale file is replaced, the permissions are set before a client can connect, and the removal
//! removes no other file.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::unistd::{Group, User, geteuid};
use socket2::{Domain, SockAddr, Socket};

use super::create::{CreateError, bind_one, socket_type};
use super::platform::SocketFile;
use crate::base::address::Address;

/// The device and the inode number of a file; of a symbolic link those of the link.
pub(crate) fn inode_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes a path, unless the file there is not the one that was bound.
pub(super) fn unlink(path: &Path, bound: (u64, u64)) -> io::Result<()> {
    match inode_of(path) {
        Ok(now) if now == bound => fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Binds a path. The file of a dead process is replaced; the path of a process that serves it is never taken.
pub(super) fn bind_path(address: &Address, path: &Path) -> Result<Socket, CreateError> {
    let at = SockAddr::unix(path)?;
    match bind_one(address, &at) {
        Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => {}
        result => return result,
    }
    // It stays open until the second look at the path, so that no other file gets its inode number.
    let stale = match SocketFile::open(path) {
        Ok(stale) => stale,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return bind_one(address, &at),
        Err(error) => return Err(error.into()),
    };
    let found = stale.metadata()?;
    if !found.file_type().is_socket() {
        let problem = "a file that is not a socket is there";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem).into());
    }
    let probe = Socket::new(Domain::UNIX, socket_type(address.kind()), None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&at) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        // The file may be stale, but this user has no right to find out.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(io::Error::other(format!(
                "a socket is there to which this user may not connect: {error}"
            ))
            .into());
        }
        // A full backlog, or a socket of another type: a process serves it.
        Ok(()) | Err(_) => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves it").into());
        }
    }
    // If another process has replaced or removed the file meanwhile, the bind below shows it.
    unlink(path, (found.dev(), found.ino()))?;
    bind_one(address, &at)
}

/// The socket file at a path that this process has just bound.
pub(super) fn open_own_socket(path: &Path) -> io::Result<(SocketFile, (u64, u64))> {
    let file = SocketFile::open(path)?;
    let metadata = file.metadata()?;
    if metadata.file_type().is_socket() && metadata.uid() == geteuid().as_raw() {
        return Ok((file, (metadata.dev(), metadata.ino())));
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "another program has put another file there meanwhile",
    ))
}

pub(super) fn set_permissions(address: &Address, file: &SocketFile) -> io::Result<()> {
    let options = address.options();
    let unknown =
        |what, name| io::Error::new(io::ErrorKind::NotFound, format!("there is no {what} `{name}`"));
    if options.user.is_some() || options.group.is_some() {
        let user = options.user.as_deref().map(|name| match name.parse() {
            Ok(uid) => Ok(uid),
            Err(_) => User::from_name(name)?.map(|u| u.uid.as_raw()).ok_or_else(|| unknown("user", name)),
        });
        let group = options.group.as_deref().map(|name| match name.parse() {
            Ok(gid) => Ok(gid),
            Err(_) => Group::from_name(name)?.map(|g| g.gid.as_raw()).ok_or_else(|| unknown("group", name)),
        });
        file.set_owner(user.transpose()?, group.transpose()?)?;
    }
    if let Some(mode) = options.mode {
        file.set_mode(mode)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[cfg(upgrades)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    #[cfg(upgrades)]
    fn a_path_appears_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        for kind in ["unix", "unix-dgram", "unix-seqpacket"] {
            let path = dir.path().join(kind);
            let address: Address = format!("{kind}://{}?mode=600", path.display()).parse().unwrap();
            let socket = bind_path(&address, &path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{kind}");
            drop(socket);
        }
    }

    #[test]
    #[cfg(upgrades)]
    fn what_somebody_has_put_at_a_bound_path_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "").unwrap();
        fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
        let path = dir.path().join("sock");
        let address: Address = format!("unix://{}?mode=666", path.display()).parse().unwrap();

        let socket = bind_path(&address, &path).unwrap();
        let (file, _) = open_own_socket(&path).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        set_permissions(&address, &file).unwrap();
        assert_eq!(fs::metadata(&precious).unwrap().mode() & 0o777, 0o600);
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o666, "it is the one that was bound");
        let refused = open_own_socket(&path).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{refused}");
        drop(socket);
    }

    /// Without O_PATH a file is known by its name alone.
    #[test]
    #[cfg(not(upgrades))]
    fn b16_what_has_replaced_a_bound_path_is_not_touched() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let [precious, path] = ["precious", "sock"].map(|name| dir.path().join(name));
        fs::write(&precious, "").unwrap();
        fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
        let user = geteuid();
        for option in ["mode=666".to_owned(), format!("user={user}"), format!("mode=666&user={user}")] {
            let address: Address = format!("unix://{}?{option}", path.display()).parse().unwrap();
            for put in [std::os::unix::fs::symlink::<&Path, &Path>, fs::hard_link::<&Path, &Path>] {
                let _socket = bind_path(&address, &path).unwrap();
                let (file, _) = open_own_socket(&path).unwrap();
                fs::remove_file(&path).unwrap();
                put(&precious, &path).unwrap();
                let error = set_permissions(&address, &file).unwrap_err().to_string();
                assert!(error.contains("another file"), "{option}: {error}");
                assert_eq!(fs::metadata(&precious).unwrap().mode() & 0o777, 0o600, "{option}");
                fs::remove_file(&path).unwrap();
            }
        }
    }

    /// The file of a dead process, on every Unix.
    #[test]
    fn a_stale_path_is_replaced_and_a_served_path_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let address: Address = format!("unix://{}?mode=600", path.display()).parse().unwrap();
        drop(bind_path(&address, &path).unwrap());
        let socket = bind_path(&address, &path).unwrap();
        let (file, inode) = open_own_socket(&path).unwrap();
        set_permissions(&address, &file).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        socket.listen(1).unwrap();
        assert_eq!(bind_path(&address, &path).unwrap_err().source.kind(), io::ErrorKind::AddrInUse);
        unlink(&path, (inode.0, inode.1 + 1)).unwrap();
        assert!(path.exists(), "it is another file");
        unlink(&path, inode).unwrap();
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert_eq!(bind_path(&address, &path).unwrap_err().source.kind(), io::ErrorKind::AlreadyExists);
    }
}
