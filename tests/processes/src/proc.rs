//! What /proc says of a process, proc(5).

use std::fmt::Display;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

/// The numbers of all processes of the machine. None where /proc is not mounted.
pub fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether there is a process of this number, dead or alive: a zombie is one until its parent has reaped it.
pub fn exists(pid: impl Display) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Whether a thread of a process runs: the other threads of a process go on when its first one has ended.
pub fn is_running(pid: impl Display) -> bool {
    Stat::of(&pid).is_some_and(|stat| !stat.is_zombie())
        || count(&pid, "task").is_ok_and(|threads| threads > 1)
}

/// A part of /proc/PID/stat, proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `Z`, ...
    pub state: char,
    /// The parent.
    pub parent: u32,
    /// The session.
    pub session: u32,
    /// The process group in the foreground of the terminal, -1 without a terminal.
    pub foreground: i32,
}

impl Stat {
    /// That of a process, the zombies included. `None` if there is no such process.
    pub fn of(pid: impl Display) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything; the fields after it may not.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let foreground = fields.nth(1)?.parse().ok()?;
        Some(Self { state, parent, session, foreground })
    }

    /// Whether it is dead, and its parent has not reaped it.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// How many entries a directory of /proc/PID has: `fd`, `task`.
///
/// # Errors
///
/// There is no such process, or it belongs to another user.
pub fn count(pid: impl Display, directory: &str) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/{directory}"))?.count())
}

/// A field of the text of a file like /proc/PID/status.
pub fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// A field of /proc/PID/status, proc_pid_status(5).
pub fn status(pid: impl Display, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    field(&text, name).map(str::to_owned)
}

/// The children of a process, the zombies included: each of its threads has a list of its own. None if there is no such process.
pub fn children(pid: impl Display) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// A TCP socket over IPv4 that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where.
    pub address: SocketAddrV4,
    /// Its inode: a link in /proc/PID/fd is `socket:[INODE]`.
    pub inode: u64,
}

impl Listening {
    /// Those of the network of a process, by the list of proc_pid_net(5). None if there is no such process.
    pub fn in_network_of(pid: impl Display) -> Vec<Self> {
        let list = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
        list.lines().filter_map(Self::parse).collect()
    }

    fn parse(line: &str) -> Option<Self> {
        const LISTENS: &str = "0A";
        let fields: Vec<_> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        // The address is in the order of its bytes in memory, the port is a number.
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
        let address = SocketAddrV4::new(ip, u16::from_str_radix(port, 16).ok()?);
        let is_listening = *fields.get(3)? == LISTENS;
        is_listening.then(|| Some(Self { address, inode: fields.get(9)?.parse().ok()? }))?
    }

    /// The link of its descriptors in /proc/PID/fd.
    pub fn link(&self) -> String {
        format!("socket:[{}]", self.inode)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::os::unix::fs::MetadataExt;
    use std::process::{self, Command, Stdio};

    use super::*;

    #[test]
    fn a_child_is_found() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("start cat");
        let this = process::id();
        let stat = Stat::of(child.id()).expect("it lives");
        assert!(stat.parent == this && !stat.is_zombie(), "{stat:?}");
        assert!(children(this).contains(&child.id()) && all().any(|pid| pid == child.id()));
        assert_eq!(status(child.id(), "Pid"), Some(child.id().to_string()));
        assert!(count(child.id(), "fd").expect("it lives") >= 3);
        child.kill().expect("kill it");
        child.wait().expect("reap it");
        assert!(!children(this).contains(&child.id()));
    }

    #[test]
    fn a_listener_is_found_by_its_address() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("its address");
        let all = Listening::in_network_of("self");
        let found = all.iter().find(|it| SocketAddr::V4(it.address) == address).expect("it is listed");
        let fds = fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten();
        let inodes: Vec<_> = fds.filter_map(|fd| Some(fs::metadata(fd.path()).ok()?.ino())).collect();
        assert!(inodes.contains(&found.inode), "{found:?}");
    }
}
