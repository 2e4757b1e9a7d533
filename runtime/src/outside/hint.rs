//! The cause and the remedy of errors that people meet when they set up a service. The text of the system says little
//! about them.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::unistd::{AccessFlags, Uid, faccessat, geteuid};

use crate::base::address::{Address, Kind, Place};
use crate::base::limits::THREAD_LIMITS;
use crate::base::report::printable;
use crate::sys::pidfd;
use crate::sys::proc;

/// How many processes a hint names.
const NAMED: usize = 3;
/// A socket that listens, proc_net_tcp(5).
const LISTENING: &str = "0A";

/// Explains an error of bind(2) at one of these addresses.
pub(crate) fn bind(address: &Address, at: &[SocketAddr], error: io::Error) -> io::Error {
    match (address.place(), error.kind()) {
        (Place::Ip { .. }, io::ErrorKind::AddrInUse) => {
            let holders = holders(&ip_sockets(address.kind(), at));
            explained(
                &error,
                &holders.unwrap_or_else(|| "`ss -tulnp` as root names the process that has it".to_owned()),
            )
        }
        (Place::Ip { port, .. }, io::ErrorKind::PermissionDenied) if *port < first_unprivileged_port() => {
            let hint = "a low port takes root, AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or a \
                        net.ipv4.ip_unprivileged_port_start that is not above it";
            explained(&error, hint)
        }
        (Place::Ip { .. }, io::ErrorKind::AddrNotAvailable) => {
            explained(&error, "no interface has this address; `freebind=true` does without one")
        }
        (Place::Path(path), io::ErrorKind::AddrInUse) => match server_of(Path::new(path)) {
            Some(server) => explained(&error, &server),
            None => error,
        },
        (Place::Path(path), _) => directory(Path::new(path), error),
        _ => error,
    }
}

/// The user that this process began as.
static FIRST_USER: OnceLock<Uid> = OnceLock::new();

/// Notes the user, before the code of the service may change it.
pub(crate) fn note_user() {
    FIRST_USER.get_or_init(geteuid);
}

/// Explains an error of creating a file: its directory may be the reason.
pub(crate) fn directory(file: &Path, error: io::Error) -> io::Error {
    let Some(directory) = file.parent() else { return error };
    let shown = directory.display();
    match error.kind() {
        io::ErrorKind::NotFound if !directory.exists() => {
            let hint =
                format!("the directory {shown} is missing; RuntimeDirectory= in the unit makes one in /run");
            explained(&error, &hint)
        }
        // EPERM is of the same kind. It comes from a file that is immutable, or from a refused call: the directory is not its cause.
        io::ErrorKind::PermissionDenied if error.raw_os_error() == Some(libc::EACCES) => {
            let user = geteuid();
            let access = AccessFlags::W_OK | AccessFlags::X_OK;
            if faccessat(AT_FDCWD, directory, access, AtFlags::AT_EACCESS).is_ok() {
                let hint = format!(
                    "the mode of {shown} lets user {user} write there; a security module such as SELinux or AppArmor, or another \
                     file system, refuses it"
                );
                return explained(&error, &hint);
            }
            let owner = fs::metadata(directory).map(|metadata| match metadata.uid() {
                // Even root may need the mode: CapabilityBoundingSet= of the unit takes CAP_DAC_OVERRIDE away.
                owner if owner == user.as_raw() => {
                    format!("; it is of user {owner}, with mode {:03o}", metadata.mode() & 0o7777)
                }
                owner => format!("; it is of user {owner}"),
            });
            let changed = match FIRST_USER.get() {
                Some(first) if *first != user => format!(
                    "; this process began as user {first}: before it becomes another user, the directory has to be that user's"
                ),
                _ => String::new(),
            };
            let owner = owner.unwrap_or_default();
            explained(&error, &format!("user {user} may not write to {shown}{owner}{changed}"))
        }
        _ => error,
    }
}

/// The process that serves a Unix socket at this path, if it is visible.
fn server_of(path: &Path) -> Option<String> {
    let table = fs::read("/proc/net/unix").ok()?;
    let path = [b" ", path.as_os_str().as_bytes()].concat();
    // Num RefCount Protocol Flags Type St Inode Path, proc_net(5). The path of a socket may have any bytes.
    let inode = |line: &[u8]| {
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let inode = std::str::from_utf8(words.nth(6)?).ok()?.parse().ok()?;
        line.ends_with(&path).then_some(inode)
    };
    holders(&table.split(|byte| *byte == b'\n').filter_map(inode).collect::<Vec<_>>())
}

/// Explains an error of a system call that starts a process, before the execve(2).
pub(crate) fn start(call: &str, errno: Errno) -> io::Error {
    match errno {
        Errno::EAGAIN => explained(&io::Error::from(errno), THREAD_LIMITS),
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => pidfd::refused(call, errno),
        _ => {
            let error = io::Error::from(errno);
            io::Error::new(error.kind(), format!("{call}(2): {error}"))
        }
    }
}

/// Explains an error of a look at /proc/self/exe.
pub(crate) fn own_executable(error: io::Error) -> io::Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "; /proc is not mounted, proc(5)",
        _ => "",
    };
    io::Error::new(error.kind(), format!("/proc/self/exe: {error}{hint}"))
}

/// Explains an error of executing this file, execve(2).
pub(crate) fn execute(file: &Path, error: io::Error) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::ENOENT) => match (fs::metadata(file), fs::read_link(file)) {
            (Ok(_), _) => "the file is there; the interpreter or the loader that it names is not".to_owned(),
            (_, Ok(target)) => format!("it is a link to {}, which does not exist", target.display()),
            _ => "the executable is gone; put the release back to where this service was started from"
                .to_owned(),
        },
        Some(libc::EACCES) => {
            "is it a file, executable, and on no file system that is mounted noexec?".to_owned()
        }
        Some(libc::ETXTBSY) => {
            "it is being written; write a release beside it and rename it, as `mv` does".to_owned()
        }
        Some(libc::ENOEXEC) => "it is no executable of this machine, or only a part of one".to_owned(),
        _ => return error,
    };
    explained(&error, &hint)
}

fn explained(error: &io::Error, hint: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{error}: {hint}"))
}

fn first_unprivileged_port() -> u16 {
    let setting = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    setting.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// The inodes of the sockets that occupy one of these addresses.
fn ip_sockets(kind: Kind, at: &[SocketAddr]) -> Vec<u64> {
    let (v4, v6) = if kind == Kind::Udp { ("udp", "udp6") } else { ("tcp", "tcp6") };
    let tables = [v4, v6].map(|table| fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
    let in_the_way = |line: &str| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
        let words: Vec<_> = line.split_whitespace().collect();
        let there = parse(words.get(1)?)?;
        let listens = kind == Kind::Udp || *words.get(3)? == LISTENING;
        (listens && at.iter().any(|at| share_address(*at, there))).then_some(words.get(9)?.parse().ok()?)
    };
    tables.iter().flat_map(|table| table.lines()).filter_map(in_the_way).collect()
}

/// `0100007F:1B58`: the bytes of the address in groups of four, in the byte order of the machine, and the port.
fn parse(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_mut(4).enumerate() {
                four.copy_from_slice(&word(at * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

fn share_address(a: SocketAddr, b: SocketAddr) -> bool {
    let (ip_a, ip_b) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (ip_a == ip_b || ip_a.is_unspecified() || ip_b.is_unspecified())
}

/// Names the processes that have one of these sockets open, as far as this user may see them: `process 4711 (nginx) has
/// it`.
fn holders(inodes: &[u64]) -> Option<String> {
    let processes =
        fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let named = processes
        .filter(|pid| pidfd::holds_any(*pid, inodes))
        .take(NAMED)
        .map(|pid| format!("process {pid} ({})", printable(&proc::name(pid))));
    let named: Vec<_> = named.collect();
    match named.len() {
        0 => None,
        1 => Some(format!("{} has it", named[0])),
        _ => Some(format!("{} have it", named.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn whoever_has_an_address_is_named() {
        let us = std::process::id();
        let tcp = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0").unwrap()];
        for at in tcp.iter().map(|listener| listener.local_addr().unwrap()) {
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), at.port());
            for at in [at, any] {
                let holders = holders(&ip_sockets(Kind::Tcp, &[at])).unwrap();
                assert!(
                    holders.starts_with(&format!("process {us} (")) && holders.ends_with(") has it"),
                    "{holders}"
                );
            }
            assert_eq!(ip_sockets(Kind::Udp, &[at]), [0; 0], "it is of the other kind");
            let elsewhere = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 77).into(), at.port());
            assert_eq!(ip_sockets(Kind::Tcp, &[elsewhere]), [0; 0]);
        }
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(holders(&ip_sockets(Kind::Udp, &[udp.local_addr().unwrap()])).is_some());
    }

    #[test]
    fn whoever_serves_a_path_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a sock");
        assert_eq!(server_of(&path), None);
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(server_of(&path).unwrap().starts_with(&format!("process {} (", std::process::id())));
        assert_eq!(server_of(&dir.path().join("sock")), None, "it is another");
    }

    /// One such path of any program is in the table that is read for every other path.
    #[test]
    fn e3_a_path_that_is_not_utf8_is_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
        let _listener = UnixListener::bind(&path).unwrap();
        let other = dir.path().join("sock");
        let _other = UnixListener::bind(&other).unwrap();
        for path in [&path, &other] {
            assert!(server_of(path).is_some(), "{path:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_executable_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (gone, link, script) =
            (dir.path().join("gone"), dir.path().join("link"), dir.path().join("script"));
        std::os::unix::fs::symlink(dir.path().join("next"), &link).unwrap();
        fs::write(&script, "#!/no/such/interpreter").unwrap();
        let missing = |path: &Path| execute(path, io::Error::from_raw_os_error(libc::ENOENT)).to_string();
        assert!(missing(&gone).ends_with("(os error 2): the executable is gone; put the release back to where this service was started from"));
        assert!(missing(&link).ends_with("/next, which does not exist"), "{}", missing(&link));
        assert!(missing(&script).contains("the interpreter or the loader"), "{}", missing(&script));
        let denied = execute(&script, io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        let full = start("clone", Errno::EAGAIN).to_string();
        assert!(full.contains("TasksMax=") && full.contains("LimitNPROC="), "{full}");
    }
}
