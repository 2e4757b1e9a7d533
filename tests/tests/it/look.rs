//! What /proc says of a [`Process`]: its files, arguments, environment, status, children and descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use processes::proc::{self, Listening};

use crate::harness::Process;

/// The file that it runs.
pub(crate) fn executable(process: &Process) -> PathBuf {
    fs::read_link(process.proc("exe")).expect("the process lives")
}

/// Whether the file that it runs is the one at this path, which may have several names.
pub(crate) fn runs(process: &Process, path: &Path) -> bool {
    // Through the link, which leads to the very file, whatever has become of its name.
    let running = fs::metadata(process.proc("exe")).expect("the process lives");
    same_file(&running, &fs::metadata(path).expect("a file"))
}

fn same_file(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

pub(crate) fn working_directory(process: &Process) -> PathBuf {
    fs::read_link(process.proc("cwd")).expect("the process lives")
}

/// Its arguments, each as it is.
pub(crate) fn arguments(process: &Process) -> Vec<Vec<u8>> {
    strings(process, "cmdline")
}

/// The environment that it was started with, less the one variable that is a successor's own: /proc goes on showing
/// what a process has removed.
pub(crate) fn environment(process: &Process) -> Vec<String> {
    let strings = strings(process, "environ");
    let text = strings.iter().map(|string| String::from_utf8_lossy(string).into_owned());
    let mut variables: Vec<_> = text.filter(|line| !line.starts_with("TABLEFLIP_HANDOVER=")).collect();
    variables.sort();
    variables
}

/// The values of a variable in the environment that it was started with; in one that is in order there is one at
/// most.
pub(crate) fn variable(process: &Process, name: &str) -> Vec<String> {
    let value = |line: &String| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
    environment(process).iter().filter_map(value).collect()
}

fn strings(process: &Process, file: &str) -> Vec<Vec<u8>> {
    let bytes = fs::read(process.proc(file)).expect("the process lives");
    let Some(bytes) = bytes.strip_suffix(b"\0") else { return Vec::new() };
    bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

/// A field of /proc/PID/status, or of that of one of its threads, proc_pid_status(5).
pub(crate) fn status(process: &Process, field: &str) -> String {
    field_of(&process.proc("status"), field)
}

fn field_of(file: &Path, field: &str) -> String {
    let text = fs::read_to_string(file).expect("the process lives");
    proc::field(&text, field).unwrap_or_else(|| panic!("there is no `{field}` in {text}")).to_owned()
}

/// Its umask, in octal.
pub(crate) fn umask(process: &Process) -> String {
    status(process, "Umask")
}

/// A number of /proc/PID/status.
pub(crate) fn number(process: &Process, field: &str) -> u64 {
    let value = status(process, field);
    let number = value.split(' ').next().expect("split has a first");
    number.parse().unwrap_or_else(|_| panic!("`{field}` is {value}"))
}

/// The status file of the thread of this name.
pub(crate) fn status_of_thread(process: &Process, name: &str) -> String {
    let tasks = fs::read_dir(process.proc("task")).expect("the process lives");
    let texts = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let mut named = texts.filter(|text| proc::field(text, "Name") == Some(name));
    named.next().unwrap_or_else(|| panic!("no thread `{name}`"))
}

/// The children of a process that lives, the zombies included.
pub(crate) fn children(process: &Process) -> Vec<u32> {
    children_of(process.pid())
}

/// The same of a process by its number.
pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    let children = proc::children(pid);
    assert!(proc::exists(pid), "process {pid} lives");
    children
}

/// How many descriptors of each kind it has: `socket`, `pipe`, `anon_inode:[eventpoll]`, a path.
pub(crate) fn kinds(process: &Process) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for target in process.descriptors() {
        // `socket:[12345]` has the inode in it.
        let kind = match target.split_once(":[") {
            Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
            _ => target,
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// The inodes of the files that its epoll instances watch, proc_pid_fdinfo(5).
pub(crate) fn watched(process: &Process) -> BTreeSet<u64> {
    let directory = process.proc("fdinfo");
    let infos = numbers_in(&directory).into_iter().filter_map(|number| {
        // It may be closed by now.
        fs::read_to_string(directory.join(number.to_string())).ok()
    });
    let inode = |line: &str| {
        let hex = line.strip_prefix("tfd:")?.split_once("ino:")?.1.split_whitespace().next()?;
        u64::from_str_radix(hex, 16).ok()
    };
    infos.flat_map(|info| info.lines().filter_map(inode).collect::<Vec<_>>()).collect()
}

/// The inode of the TCP socket that listens at this address, of IPv4.
pub(crate) fn listening_inode(address: &str) -> u64 {
    let address = address.parse().expect("an address of IPv4");
    let mut listening = Listening::in_network_of("self").into_iter();
    listening.find(|socket| socket.address == address).expect("a socket listens there").inode
}

/// The numbers of its descriptors.
pub(crate) fn numbers(process: &Process) -> BTreeSet<u32> {
    numbers_in(&process.proc("fd"))
}

fn numbers_in(directory: &Path) -> BTreeSet<u32> {
    let entries = fs::read_dir(directory).expect("the process lives");
    let number =
        |entry: fs::DirEntry| entry.file_name().to_str().expect("a number").parse().expect("a number");
    entries.map(|entry| number(entry.expect("an entry"))).collect()
}

/// Its descriptors beyond the standard streams that a child of it would inherit, `NUMBER=TARGET`, without those that
/// it has from [`foreign`].
pub(crate) fn inheritable(process: &Process) -> Vec<String> {
    let found = inheritable_in(&process.proc(""));
    found.into_iter().filter(|descriptor| !foreign().contains(descriptor)).collect()
}

/// What whoever runs the tests has left open for every process that is started from there.
pub(crate) fn foreign() -> &'static [String] {
    static FOREIGN: OnceLock<Vec<String>> = OnceLock::new();
    FOREIGN.get_or_init(|| inheritable_in(Path::new("/proc/self")))
}

fn inheritable_in(process: &Path) -> Vec<String> {
    let inheritable = |number: &u32| {
        // One that has been closed meanwhile is none that anybody inherits.
        let info = fs::read_to_string(process.join(format!("fdinfo/{number}"))).ok()?;
        let flags = proc::field(&info, "flags").expect("proc_pid_fdinfo(5) has it");
        let flags = u32::from_str_radix(flags, 8).expect("an octal number");
        (flags & CLOEXEC == 0).then_some(())?;
        let target = fs::read_link(process.join(format!("fd/{number}"))).unwrap_or_default();
        Some(format!("{number}={}", target.display()))
    };
    numbers_in(&process.join("fd")).iter().filter(|number| **number > 2).filter_map(inheritable).collect()
}

/// O_CLOEXEC as fdinfo has it.
const CLOEXEC: u32 = 0o2_000_000;
