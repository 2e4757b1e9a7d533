//! What is behind an error that the system has few words for, and what to do about it: of those that people meet when they
//! set a service up.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, geteuid, sysconf};

use crate::address::{Address, Kind, Place};
use crate::pidfile::Pidfile;

/// How many processes are named.
const NAMED: usize = 3;
/// How much later than it was a process may seem to have begun: /proc counts from a whole second.
const CLOCK_SLACK: Duration = Duration::from_secs(2);
/// proc_net_tcp(5): a socket that listens.
const LISTENING: &str = "0A";

/// An error of bind(2) at one of these addresses.
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
        (Place::Path(path), _) => directory(Path::new(path), error),
        _ => error,
    }
}

/// An error of making a file: its directory may be the reason.
pub(crate) fn directory(file: &Path, error: io::Error) -> io::Error {
    let Some(directory) = file.parent() else { return error };
    let shown = directory.display();
    match error.kind() {
        io::ErrorKind::NotFound if !directory.exists() => {
            let hint =
                format!("the directory {shown} is missing; RuntimeDirectory= in the unit makes one in /run");
            explained(&error, &hint)
        }
        io::ErrorKind::PermissionDenied => {
            let owner = fs::metadata(directory).map(|metadata| format!("; it is of user {}", metadata.uid()));
            let hint = format!("user {} may not write to {shown}{}", geteuid(), owner.unwrap_or_default());
            explained(&error, &hint)
        }
        _ => error,
    }
}

/// Which process serves a Unix socket at this path, if it can be seen.
pub(crate) fn server_of(path: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/net/unix").ok()?;
    let path = path.to_str()?;
    // Num RefCount Protocol Flags Type St Inode Path, proc_net(5)
    let inode = |line: &str| {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let inode = words.nth(6)?.parse().ok()?;
        line.ends_with(&format!(" {path}")).then_some(inode)
    };
    holders(&table.lines().filter_map(inode).collect::<Vec<_>>())
}

/// An error of execve(2) of this file.
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

/// Another service that has this pid file, and what it runs: the process that it names lives, runs a program of the name of
/// ours, handles the signals of a service, and is older than the file. A number that has become another process's, or that of
/// a thread, is no reason not to start.
pub(crate) fn other_service(pidfile: &Pidfile, upgrade: Signal) -> Option<(u32, PathBuf)> {
    let pid = pidfile.named().filter(|pid| *pid != std::process::id() && *pid != parent_id())?;
    let program = |of: &str| fs::read_link(format!("/proc/{of}/exe")).ok();
    let name = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?;
        Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
    };
    let theirs = program(&pid.to_string())?;
    let is_one = name(&theirs)? == name(&program("self")?)?
        && is_process(pid)
        && [upgrade, Signal::SIGTERM].into_iter().all(|it| handles(pid, it))
        && began(pid)? <= fs::metadata(pidfile.path()).ok()?.modified().ok()? + CLOCK_SLACK;
    is_one.then_some((pid, theirs))
}

/// A field of /proc/PID/status, proc_pid_status(5).
fn status(pid: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = |line: &str| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned());
    status.lines().find_map(value)
}

/// Whether a number is that of a process, and not of one of its threads, which /proc has as well.
fn is_process(pid: u32) -> bool {
    status(pid, "Tgid").is_some_and(|process| process == pid.to_string())
}

/// When a process was started: its 22nd field in /proc/PID/stat, in ticks since the machine was, proc_pid_stat(5).
fn began(pid: u32) -> Option<SystemTime> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks: u64 = after_name.split_whitespace().nth(19)?.parse().ok()?;
    let in_a_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    let machine = fs::read_to_string("/proc/stat").ok()?;
    let booted: u64 = machine.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    Some(
        UNIX_EPOCH
            + Duration::from_secs(booted)
            + Duration::from_secs(ticks) / u32::try_from(in_a_second).ok()?,
    )
}

/// Whether a process has a handler for a signal.
pub(crate) fn handles(pid: u32, signal: Signal) -> bool {
    let mask = status(pid, "SigCgt").and_then(|mask| u64::from_str_radix(&mask, 16).ok()).unwrap_or(0);
    mask >> (signal as i32 - 1) & 1 == 1
}

fn explained(error: &io::Error, hint: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{error}: {hint}"))
}

fn first_unprivileged_port() -> u16 {
    let setting = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    setting.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// The inodes of the sockets that are in the way of one at these addresses.
fn ip_sockets(kind: Kind, at: &[SocketAddr]) -> Vec<u64> {
    let (v4, v6) = if kind == Kind::Udp { ("udp", "udp6") } else { ("tcp", "tcp6") };
    let tables = [v4, v6].map(|table| fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
    let in_the_way = |line: &str| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
        let words: Vec<_> = line.split_whitespace().collect();
        let there = parse(words.get(1)?)?;
        let listens = kind == Kind::Udp || *words.get(3)? == LISTENING;
        (listens && at.iter().any(|at| collide(*at, there))).then_some(words.get(9)?.parse().ok()?)
    };
    tables.iter().flat_map(|table| table.lines()).filter_map(in_the_way).collect()
}

/// `0100007F:1B58`: the bytes of the address, four at a time in the order of this machine, and the port.
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

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let (ip_a, ip_b) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (ip_a == ip_b || ip_a.is_unspecified() || ip_b.is_unspecified())
}

/// The processes that have one of these sockets open, as far as this user may see them: `process 4711 (nginx) has it`.
fn holders(inodes: &[u64]) -> Option<String> {
    let links: Vec<_> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let has_one = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|link| links.iter().any(|it| *it == *link.to_string_lossy()))
    };
    let processes =
        fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let named = processes.filter(has_one).take(NAMED).map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("process {pid} ({})", name.trim_end())
    });
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

    /// The number of a thread has an entry in /proc as well, and a process that is younger than a pid file did not write it.
    #[test]
    fn a_number_is_that_of_a_process_and_of_its_time() {
        let us = std::process::id();
        assert!(is_process(us));
        let of_a_thread = std::thread::spawn(|| {
            let here = fs::read_link("/proc/thread-self").unwrap();
            let number = here.file_name().unwrap().to_str().unwrap().parse().unwrap();
            (number, is_process(number), status(number, "Tgid"))
        });
        let (number, is_process, process) = of_a_thread.join().unwrap();
        assert!(number != us && !is_process && process == Some(us.to_string()), "{number} {process:?}");
        let (now, began) = (SystemTime::now(), began(us).unwrap());
        assert!(began <= now + CLOCK_SLACK && began + Duration::from_secs(3600) > now, "{began:?} {now:?}");
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
    }
}
