//! Start the successor: posix_spawn(3), so that nothing forks a big heap, and a pidfd, so that nothing is confused
//! by a process ID that is used again.
//!
//! Under a service manager it is started as a sibling of this process, by clone(2) with CLONE_PARENT. A manager waits at a
//! stop for its own children alone: a main process that is none when it is announced is killed in the same breath (M1). So
//! it has to be the manager's child from the beginning, whoever is a subreaper, and nothing in between has to exit first.
#![allow(unsafe_code)]

use std::env;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use crate::environment::{HANDOVER, SUPERVISOR};
use crate::hint;
use crate::poll::is_ready;
use crate::preflight::Check;
use crate::signals;
use crate::systemd::{LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID, LISTEN_PIDFDID, Passed};

/// What belongs to one process and is not passed on, sd_listen_fds(3).
pub(crate) const OF_ONE_PROCESS: [&str; 5] =
    [HANDOVER, LISTEN_PID, LISTEN_PIDFDID, LISTEN_FDS, LISTEN_FDNAMES];

/// Starts successors: what an engine needs of the system beyond its sockets. In a test it is a thread that is started.
pub(crate) trait Spawner: Send {
    /// Starts one, whose end of the channel is `channel`.
    fn spawn(&mut self, what: What, channel: OwnedFd) -> Result<Box<dyn Child>, String>;
    /// The path that a start executes.
    fn executable(&self) -> Option<&Path>;
    /// Starts the command that is to check it.
    fn check(&self, command: &OsStr) -> io::Result<Check>;
}

/// A successor that has not been reaped. Its descriptor is readable once it is dead.
pub(crate) trait Child: AsFd + Send {
    fn pid(&self) -> u32;
    /// Ends it at once. To one that is dead already it does nothing.
    fn kill(&self);
    /// Reaps it, if it is dead; says in words how it ended.
    fn reap(&self) -> Option<String>;
    /// Whether another process may go on with what it had: it is one, and not a thread of a test.
    fn may_fork(&self) -> bool;
}

/// How this process was started, taken down before anything could change it.
#[derive(Debug)]
pub(crate) struct Launch {
    executable: PathBuf,
    arguments: Vec<OsString>,
    directory: PathBuf,
    /// The file that this process runs, whatever becomes of its path.
    image: File,
    /// Variables of a service manager, which are for the processes of the service and not for what these start.
    of_manager: Vec<(&'static str, OsString)>,
    siblings: Siblings,
}

/// Whether successors are children of whoever is the parent of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Siblings {
    /// They are this one's own, and those of the parent that stays once it is dead.
    Never,
    /// If it is a service manager, which may follow a pid file.
    OfManager,
    /// It is one.
    Always,
}

impl Siblings {
    /// The first process of a namespace has none, clone(2). The variables are set for every process of a unit, and
    /// inherited, systemd.exec(5): one that is started by hand has another parent.
    fn are_wanted(self) -> bool {
        let parent = std::os::unix::process::parent_id();
        let is_manager = || {
            let of_user = env::var_os("MANAGERPID").is_some_and(|pid| pid == *parent.to_string());
            env::var_os("INVOCATION_ID").is_some() && (parent == 1 || of_user)
        };
        std::process::id() != 1 && (self == Self::Always || self == Self::OfManager && is_manager())
    }
}

/// What a start runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Whatever the path of the executable names by now.
    Release,
    /// The very file that this process runs.
    OwnImage,
}

impl Launch {
    /// `inherited` is the executable of the predecessor, which resolved it when the first process started.
    pub(crate) fn new(
        inherited: Option<PathBuf>,
        of_manager: Vec<(&'static str, OsString)>,
    ) -> io::Result<Self> {
        let arguments: Vec<OsString> = env::args_os().collect();
        let directory = logical_directory()?;
        let image = File::options().read(true).custom_flags(libc::O_PATH).open("/proc/self/exe")?;
        let executable = match inherited.filter(|path| path.is_absolute()) {
            Some(path) => path,
            None => {
                let running = image.metadata()?;
                let path = env::var_os("PATH").unwrap_or_default();
                let named = arguments.first().and_then(|name| resolve(name, &path, &directory, &running));
                // argv[0] is whatever our parent put there.
                named.map_or_else(env::current_exe, Ok)?
            }
        };
        Ok(Self { executable, arguments, directory, image, of_manager, siblings: Siblings::Never })
    }

    pub(crate) fn set_siblings(&mut self, siblings: Siblings) {
        self.siblings = siblings;
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts the successor, whose only inherited descriptor beyond the standard streams is `channel`.
    fn start(&self, what: What, channel: BorrowedFd<'_>) -> Result<Process, SpawnError> {
        let by = if self.siblings.are_wanted() {
            By::Sibling
        } else {
            By::Child { blocked: SigSet::empty(), own_group: false }
        };
        self.start_with(what, HANDOVER, channel, by, &[])
    }

    /// Starts the first generation under a supervisor, of whose socket it gets one end. It is in a process group of its
    /// own: what a terminal or a process manager sends to a group reaches it once, through the supervisor. The signals
    /// that it takes are blocked until it does. What a service manager has passed is passed on.
    pub(crate) fn start_supervised(
        &self,
        what: What,
        socket: BorrowedFd<'_>,
        upgrade: Signal,
        passed: &[Passed],
    ) -> Result<Process, SpawnError> {
        let blocked: SigSet = [Signal::SIGTERM, Signal::SIGINT, upgrade].into_iter().collect();
        self.start_with(what, SUPERVISOR, socket, By::Child { blocked, own_group: true }, passed)
    }

    /// Starts an executable that finds the number of `channel` in `variable`.
    fn start_with(
        &self,
        what: What,
        variable: &str,
        channel: BorrowedFd<'_>,
        by: By,
        passed: &[Passed],
    ) -> Result<Process, SpawnError> {
        let path = match what {
            What::Release => self.executable.clone(),
            // It is resolved by the child before close-on-exec closes the descriptor.
            What::OwnImage => PathBuf::from(format!("/proc/self/fd/{}", self.image.as_raw_fd())),
        };
        let failed =
            |source| SpawnError::Exec { executable: path.clone(), source: hint::execute(&path, source) };
        // The chdir happens in the child, where its failure could not be told from one of exec.
        match fs::metadata(&self.directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(self.no_directory(Errno::ENOTDIR.into())),
            Err(error) => return Err(self.no_directory(error)),
        }
        // Descriptors 0 to 2 are the standard streams of the successor: a channel there would be taken for one.
        let channel = above_standard_streams(channel).map_err(failed)?;
        let is_set_here = |name: &OsStr| self.of_manager.iter().any(|(ours, _)| name == *ours);
        let environment = env::vars_os()
            .filter(|(name, _)| !OF_ONE_PROCESS.iter().any(|ours| name == ours) && !is_set_here(name))
            .chain(self.of_manager.iter().map(|(name, value)| (name.into(), value.clone())))
            .chain(Passed::variables(passed).into_iter().map(|(name, value)| (name.into(), value)))
            .chain([(variable.into(), channel.as_raw_fd().to_string().into())])
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                name
            });
        let program = c_string(path.as_os_str()).map_err(failed)?;
        let directory = c_string(self.directory.as_os_str()).map_err(failed)?;
        let arguments = c_strings(self.arguments.iter().cloned()).map_err(failed)?;
        let environment = c_strings(environment).map_err(failed)?;
        match by {
            By::Child { blocked, own_group } => {
                let passed = passed.iter().map(|it| it.fd.as_raw_fd());
                let inherited: Vec<_> = passed.chain([channel.as_raw_fd()]).collect();
                let actions = FileActions::new(&directory, &inherited).map_err(failed)?;
                let attributes = Attributes::new(&blocked, own_group).map_err(failed)?;
                posix_spawn(&program, &arguments, &environment, &actions, &attributes)
            }
            By::Sibling => spawn_sibling(&program, &arguments, &environment, &directory, channel.as_raw_fd()),
        }
        .map_err(failed)
    }

    fn no_directory(&self, source: io::Error) -> SpawnError {
        SpawnError::Directory { directory: self.directory.clone(), source }
    }
}

/// How a process is started.
enum By {
    /// With these signals blocked, in a process group of its own if it is to have one.
    Child {
        blocked: SigSet,
        own_group: bool,
    },
    Sibling,
}

impl Spawner for Launch {
    fn spawn(&mut self, what: What, channel: OwnedFd) -> Result<Box<dyn Child>, String> {
        match self.start(what, channel.as_fd()) {
            Ok(process) => Ok(Box::new(process)),
            Err(error) => Err(error.to_string()),
        }
    }

    fn executable(&self) -> Option<&Path> {
        Some(&self.executable)
    }

    fn check(&self, command: &OsStr) -> io::Result<Check> {
        Check::start(command, &self.executable, self.arguments.get(1..).unwrap_or_default(), &self.directory)
    }
}

/// Why a successor could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("cannot run {}: {source}", executable.display())]
    Exec { executable: PathBuf, source: io::Error },
    #[error("the directory that this service was started in, {}, cannot be used: {source}", directory.display())]
    Directory { directory: PathBuf, source: io::Error },
}

/// The working directory, as the shell that started us names it: with a symbolic link such as `current` unresolved.
fn logical_directory() -> io::Result<PathBuf> {
    let physical = env::current_dir()?;
    let here = fs::metadata(".")?;
    Ok(env::var_os("PWD")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && fs::metadata(path).is_ok_and(|there| same_file(&here, &there)))
        .unwrap_or(physical))
}

fn same_file(a: &Metadata, b: &Metadata) -> bool {
    a.dev() == b.dev() && a.ino() == b.ino()
}

/// The path that was executed, without following symbolic links: where one is moved to, there is the next release.
fn resolve(name: &OsStr, path: &OsStr, directory: &Path, running: &Metadata) -> Option<PathBuf> {
    let is_us = |candidate: &PathBuf| fs::metadata(candidate).is_ok_and(|file| same_file(&file, running));
    if name.as_bytes().contains(&b'/') {
        return Some(directory.join(name)).filter(is_us);
    }
    env::split_paths(path).map(|entry| directory.join(entry).join(name)).find(is_us)
}

fn above_standard_streams(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC with a live descriptor returns a new one or -1.
    let number = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1) };
    Errno::result(number)?;
    // SAFETY: it has just been made, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

fn c_strings(texts: impl Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    texts.map(|text| c_string(&text)).collect()
}

fn posix_spawn(
    program: &CStr,
    arguments: &[CString],
    environment: &[CString],
    actions: &FileActions,
    attributes: &Attributes,
) -> io::Result<Process> {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let mut pid = 0;
    // SAFETY: both objects are initialised, the two arrays end in a null pointer, and every string in them outlives
    // the call, which copies nothing that it keeps.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    })?;
    Process::new(pid)
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// What the clone does, which shares the memory of this process until it executes the program, while the thread that has
/// made it waits. It is given what it needs, allocates nothing, and touches nothing else.
struct Job<'a> {
    program: &'a CStr,
    arguments: &'a [*mut libc::c_char],
    environment: &'a [*mut libc::c_char],
    directory: &'a CStr,
    channel: RawFd,
    /// Why it could not, as an errno; 0 if it could.
    failed: libc::c_int,
}

/// As posix_spawn with these file actions and attributes, for a sibling instead of a child.
fn spawn_sibling(
    program: &CStr,
    arguments: &[CString],
    environment: &[CString],
    directory: &CStr,
    channel: RawFd,
) -> io::Result<Process> {
    const STACK: usize = 64 * 1024;
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let mut job =
        Job { program, arguments: &arguments, environment: &environment, directory, channel, failed: 0 };
    let mut stack = vec![MaybeUninit::<u128>::uninit(); STACK / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end;
    let mut pidfd: RawFd = -1;
    // With the pidfd in the same call: one that is dead at once is reaped by the manager, and its number another's.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT | libc::CLONE_PIDFD;
    // A handler of this process must not run in the clone, whose memory is this one's.
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    // SAFETY: the stack and the job outlive the call, which returns once the clone has executed the program or exited;
    // `top` is the end of the stack, aligned for any type; the kernel stores the pidfd where the pointer says.
    let pid = unsafe {
        libc::clone(execute, top.cast(), flags | libc::SIGCHLD, (&raw mut job).cast(), &raw mut pidfd)
    };
    let cloned = Errno::result(pid);
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    let pid = cloned?;
    // SAFETY: the clone has made it, closed on exec, and nobody else knows its number.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if job.failed != 0 {
        return Err(io::Error::from_raw_os_error(job.failed));
    }
    Ok(Process { pid, pidfd, is_child: false })
}

/// The clone: as the child of a posix_spawn.
extern "C" fn execute(job: *mut libc::c_void) -> libc::c_int {
    // SAFETY: it is the job of the thread that waits for this clone, and nobody else touches it meanwhile.
    let job = unsafe { &mut *job.cast::<Job<'_>>() };
    for signal in 1..=libc::SIGRTMAX() {
        set_default(signal);
    }
    // SAFETY: a path that ends in NUL.
    let entered = unsafe { libc::chdir(job.directory.as_ptr()) };
    // The table of descriptors is the clone's own: it is inherited by nobody else.
    // SAFETY: F_SETFD takes any number.
    let inheritable = unsafe { libc::fcntl(job.channel, libc::F_SETFD, 0) };
    if entered == 0 && inheritable == 0 {
        let mut none = MaybeUninit::uninit();
        // SAFETY: it initialises what it is given.
        unsafe { libc::sigemptyset(none.as_mut_ptr()) };
        // SAFETY: the set is initialised.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
        // SAFETY: the strings end in NUL and the lists in a null pointer.
        unsafe {
            libc::execve(job.program.as_ptr(), job.arguments.as_ptr().cast(), job.environment.as_ptr().cast())
        };
    }
    job.failed = Errno::last_raw();
    signals::exit_now(127)
}

/// Gives a signal its default action. It fails for those that have no other.
///
/// By the system call: that of the C library takes a lock for SIGABRT, as abort(3) does. In a clone that shares the memory of
/// its parent, a thread of that one may hold it.
fn set_default(signal: libc::c_int) {
    /// The size of the kernel's set of signals, in bytes: 128 signals on MIPS, 64 everywhere else.
    const SET: usize = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 16 } else { 8 };
    /// `struct sigaction` of the kernel has at most four words.
    const DEFAULT: [u64; 4] = [0; 4];
    // SAFETY: zeroes are the default action, which runs no code, without flags and with an empty mask; nothing is stored
    // through the null pointer.
    let _: libc::c_long = unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), ptr::null_mut::<libc::c_void>(), SET)
    };
}

/// The posix_spawn family returns its error instead of setting errno.
fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    /// `directory` as the working directory, and descriptors inherited under their numbers: `dup2` of one onto itself
    /// clears close-on-exec in the child alone, so that no other child of this process ever sees it.
    fn new(directory: &CStr, inherited: &[RawFd]) -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: it initialises what it is given.
        check(unsafe { libc::posix_spawn_file_actions_init(raw.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded.
        let mut actions = Self(unsafe { raw.assume_init() });
        // SAFETY: the object is initialised, and the path is copied.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut actions.0, directory.as_ptr()) })?;
        for fd in inherited {
            // SAFETY: the object is initialised.
            check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut actions.0, *fd, *fd) })?;
        }
        Ok(actions)
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: the object is initialised and not used again. It cannot fail.
        let _: libc::c_int = unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// These signals blocked, every disposition the default, and a process group of its own if it is to have one.
    fn new(blocked: &SigSet, own_group: bool) -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: it initialises what it is given.
        check(unsafe { libc::posix_spawnattr_init(raw.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded.
        let mut attributes = Self(unsafe { raw.assume_init() });
        let all = SigSet::all();
        // SAFETY: the object is initialised, and the set is copied.
        check(unsafe { libc::posix_spawnattr_setsigmask(&raw mut attributes.0, blocked.as_ref()) })?;
        // SAFETY: the object is initialised, and the set is copied.
        check(unsafe { libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, all.as_ref()) })?;
        let group = if own_group { libc::POSIX_SPAWN_SETPGROUP } else { 0 };
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF | group;
        // SAFETY: the object is initialised.
        check(unsafe { libc::posix_spawnattr_setflags(&raw mut attributes.0, flags as libc::c_short) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: the object is initialised and not used again. It cannot fail.
        let _: libc::c_int = unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// A descriptor that is readable once the process is dead, pidfd_open(2).
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes any number; the descriptor it makes is closed on exec.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let number = Errno::result(result)? as RawFd;
    // SAFETY: it has just been made, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether the process of a pidfd is dead.
pub(crate) fn is_dead(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [nix::poll::PollFd::new(pidfd, nix::poll::PollFlags::POLLIN)];
    is_ready(&mut fds, nix::poll::PollTimeout::ZERO).is_ok_and(|ready| ready)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(libc::c_int),
    /// By a signal, which need not have a name.
    Killed {
        signal: libc::c_int,
        core: bool,
    },
}

impl Ended {
    /// The status as a shell says it.
    pub(crate) fn status(self) -> i32 {
        match self {
            Self::Exited(status) => status,
            Self::Killed { signal, .. } => 128 + signal,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Killed { signal, core } => {
                let core = if core { " and dumped core" } else { "" };
                match Signal::try_from(signal) {
                    Ok(signal) => write!(f, "was killed by {signal}{core}"),
                    Err(_) => write!(f, "was killed by signal {signal}{core}"),
                }
            }
        }
    }
}

/// Waits for the end of a child, waitid(2): its number, and how it ended. `None` if there is none yet, which only WNOHANG returns
/// for. That of nix has no word for a signal without a name, and has reaped the child by then.
pub(crate) fn wait(
    kind: libc::idtype_t,
    id: libc::id_t,
    flags: libc::c_int,
) -> nix::Result<Option<(u32, Ended)>> {
    // SAFETY: it is a C struct of numbers and pointers, for which zeroes are values.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: waitid takes any number, and stores what it says in `info`.
        let result = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | flags) };
        match Errno::result(result) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    // SAFETY: waitid has stored it, or left the zeroes where no child has ended.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let ended = match info.si_code {
        libc::CLD_EXITED => Ended::Exited(status),
        code => Ended::Killed { signal: status, core: code == libc::CLD_DUMPED },
    };
    Ok((pid != 0).then(|| (pid.unsigned_abs(), ended)))
}

/// Sends a signal, pidfd_send_signal(2). It fails only for a process that is dead, or of another user.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) {
    // SAFETY: the descriptor is a pidfd, and a null siginfo asks for the usual one.
    let _: libc::c_long = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
}

/// Whether there is no pidfd of a child because it is dead already, and was reaped: by the kernel, where SIGCHLD is ignored, or
/// by somebody here who calls waitpid(-1). Its number may be another's by now, who is not to be killed.
pub(crate) fn is_reaped(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

/// How one ended that was.
pub(crate) const EXITED_AT_ONCE: &str =
    "it exited at once; its status was taken by another wait in this process";

/// A process that was started here and has not been reaped.
#[derive(Debug)]
pub(crate) struct Process {
    pid: libc::pid_t,
    pidfd: OwnedFd,
    /// One that is not is reaped by the service manager, which alone learns how it ended.
    is_child: bool,
}

impl Process {
    fn new(pid: libc::pid_t) -> io::Result<Self> {
        match pidfd_open(pid.unsigned_abs()) {
            Ok(pidfd) => Ok(Self { pid, pidfd, is_child: true }),
            Err(error) if is_reaped(&error) => Err(io::Error::other(EXITED_AT_ONCE)),
            Err(error) => {
                // Not watched is not wanted: it would serve beside this process.
                // SAFETY: kill takes any number, and this one is a child of ours that nobody has reaped.
                let _: libc::c_int = unsafe { libc::kill(pid, libc::SIGKILL) };
                // SAFETY: waitpid with a null pointer stores no status.
                let _: libc::c_int = unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
                Err(error)
            }
        }
    }

    /// Its number and its pidfd.
    pub(crate) fn into_parts(self) -> (u32, OwnedFd) {
        (self.pid.unsigned_abs(), self.pidfd)
    }
}

impl Child for Process {
    fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// To a process that is dead already it does nothing.
    fn kill(&self) {
        pidfd_send_signal(self.as_fd(), libc::SIGKILL);
    }

    /// Reaps it, if it is dead; says in words how it ended. Never `waitpid(-1)`: other children are not ours.
    fn reap(&self) -> Option<String> {
        if !self.is_child {
            return is_dead(self.as_fd()).then(|| "exited (the service manager has its status)".to_owned());
        }
        match wait(libc::P_PIDFD, self.pidfd.as_raw_fd().unsigned_abs(), libc::WNOHANG) {
            Ok(ended) => ended.map(|(_, ended)| ended.to_string()),
            // SIGCHLD is ignored, or somebody here calls waitpid(-1). That it is dead the pidfd tells all the same.
            Err(_) if is_dead(self.as_fd()) => {
                Some("exited; its status was taken by another wait in this process".into())
            }
            Err(_) => None,
        }
    }

    fn may_fork(&self) -> bool {
        true
    }
}

impl AsFd for Process {
    /// Readable once the process is dead, pidfd_open(2).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags};

    use super::*;
    use crate::fault::failing;

    #[test]
    fn a_number_that_is_no_childs_any_more_is_not_killed() {
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = libc::pid_t::try_from(other.id()).unwrap();
        let gone = failing(libc::SYS_pidfd_open, Errno::ESRCH, || Process::new(pid).map(drop));
        assert!(gone.unwrap_err().to_string().starts_with("it exited at once"));
        assert!(other.try_wait().unwrap().is_none(), "it lives");
        // One that is, and cannot be watched, is not wanted.
        let unwatched = failing(libc::SYS_pidfd_open, Errno::EMFILE, || Process::new(pid).map(drop));
        assert_eq!(unwatched.unwrap_err().raw_os_error(), Some(libc::EMFILE));
        assert!(other.wait().is_err(), "it was reaped");
    }

    #[test]
    fn a_signal_is_told_whether_it_has_a_name_or_not() {
        for (signal, said) in [(libc::SIGTERM, "SIGTERM"), (40, "signal 40")] {
            let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            let process = Process::new(libc::pid_t::try_from(other.id()).unwrap()).unwrap();
            assert_eq!(process.reap(), None, "it lives");
            pidfd_send_signal(process.as_fd(), signal);
            let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            crate::poll::until(&mut fds, None).unwrap();
            assert_eq!(process.reap(), Some(format!("was killed by {said}")));
            assert!(other.wait().is_err(), "it was reaped");
        }
    }

    #[test]
    fn the_path_is_the_one_that_was_executed() {
        let dir = tempfile::tempdir().unwrap();
        let us = env::current_exe().unwrap();
        let running = fs::metadata(&us).unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        let link = dir.path().join("bin/svc");
        std::os::unix::fs::symlink(&us, &link).unwrap();
        let other = dir.path().join("svc");
        fs::write(&other, "").unwrap();
        let find = |name: &str, path: &str| resolve(name.as_ref(), path.as_ref(), dir.path(), &running);

        assert_eq!(find("bin/svc", ""), Some(link.clone()), "the symbolic link is kept");
        assert_eq!(find(link.to_str().unwrap(), ""), Some(link.clone()));
        assert_eq!(find("svc", "/nowhere:bin"), Some(link.clone()), "a relative entry of PATH");
        assert_eq!(find("svc", ".:bin"), Some(link), "another program of that name is passed over");
        assert_eq!(find("./svc", ""), None, "argv[0] that names another program is not believed");
        assert_eq!(find("-svc", "bin"), None);
    }
}
