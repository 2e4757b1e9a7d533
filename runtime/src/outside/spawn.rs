//! Starts a process of the service with clone(2).
//!
//! With CLONE_VM and CLONE_VFORK, like posix_spawn(3), no big heap is forked. The pidfd is safe against a reused
//! process ID. posix_spawn itself sets no umask, and the body may have changed the umask of this process.
//!
//! Under a service manager a successor is a sibling of this process, by CLONE_PARENT. At a stop a manager waits for its
//! own children alone, and kills a main process that is no child at once (M1). So the successor must be the manager's
//! child from the beginning, whichever process is a subreaper. No process in between has to exit first.
//!
//! A successor gets the arguments, the working directory, the environment and the umask of the first process, and ignores the
//! signals of a terminal that the first process was started with ignored.
//! docs/operations.md has the table of all that a process inherits.
#![allow(unsafe_code)]

mod own_variable;
mod previous;

use std::env;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::stat::{Mode, umask};

use crate::config::environment::{self, HANDOVER, SUPERVISOR};
use crate::outside::hint;
use crate::outside::loader::Loader;
use crate::outside::preflight::Check;
use crate::outside::spawner::{Child, Image, Spawner};
use crate::sys::pidfd;
use crate::sys::proc;
use crate::sys::signals;

use own_variable::OwnVariable;
use previous::{Previous, own_path, path_for_others};

pub(crate) use previous::NAMES as EXECUTABLES;

/// How this process was started, recorded before anything can change it.
#[derive(Debug)]
pub(crate) struct Launch {
    executable: PathBuf,
    arguments: Vec<OsString>,
    directory: PathBuf,
    /// Without the variables that belong to one process, and without those in `of_manager`.
    environment: Vec<(OsString, OsString)>,
    umask: Mode,
    /// The signals that the first process was started with ignored, of those that a terminal sends.
    ignored: SigSet,
    /// The file that this process runs. It stays valid when its path is replaced.
    image: Arc<OwnedFd>,
    /// The other executable that ran before, for a rollback.
    previous: Option<Previous>,
    /// What has loaded the program, if `image` is not the program.
    loader: Option<Loader>,
    /// The variables of a service manager for processes of the service. Other children do not get them.
    of_manager: Vec<(&'static str, OsString)>,
    siblings: Siblings,
}

/// Whether successors are siblings of this process: children of its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Siblings {
    /// Never: they are children of this process, and the supervisor adopts them when this process dies.
    Never,
    /// If the parent is a service manager. It may follow a pid file.
    OfManager,
    /// Always: the parent is a service manager.
    Always,
}

impl Siblings {
    /// The first process of a PID namespace cannot have siblings, clone(2). Every process of a unit inherits the
    /// variables, systemd.exec(5). So a process that is started by hand has them as well, and its parent is another.
    fn are_wanted(self, environment: &[(OsString, OsString)]) -> bool {
        let parent = std::os::unix::process::parent_id();
        let variable = |name: &str| environment.iter().find(|(known, _)| known == name);
        let is_manager = || {
            let of_user = variable("MANAGERPID").is_some_and(|(_, pid)| *pid == *parent.to_string());
            variable("INVOCATION_ID").is_some() && (parent == 1 || of_user)
        };
        std::process::id() != 1 && (self == Self::Always || self == Self::OfManager && is_manager())
    }
}

impl Launch {
    /// `inherited` is the executable that the predecessor passes on: the first process resolved it. `first_umask` is
    /// the umask of that process. It must be called before the process has signal handlers.
    pub(crate) fn new(
        inherited: Option<PathBuf>,
        first_umask: Option<u32>,
        of_manager: Vec<(&'static str, OsString)>,
    ) -> io::Result<Self> {
        let arguments: Vec<OsString> = env::args_os().collect();
        let environment = environment::passed_on(environment::at_exec());
        let directory = logical_directory()?;
        let image = File::options().read(true).custom_flags(libc::O_PATH).open(OWN_EXECUTABLE);
        let image = image.map_err(hint::own_executable)?;
        let loader = Loader::find(&arguments);
        let executable = match (inherited.filter(|path| path.is_absolute()), &loader) {
            (Some(path), _) => path,
            (None, Some(loader)) => loader.program(&directory),
            (None, None) => {
                let running = image.metadata()?;
                let path = env::var_os("PATH").unwrap_or_default();
                let named = arguments.first().and_then(|name| resolve(name, &path, &directory, &running));
                // argv[0] is whatever the parent of this process chose.
                named.map_or_else(|| env::current_exe().map_err(hint::own_executable), Ok)?
            }
        };
        let umask = first_umask.map_or_else(own_umask, Mode::from_bits_truncate) & ALL_PERMISSIONS;
        let ignored = signals::TERMINAL_SIGNALS.into_iter().filter(|signal| signals::is_ignored(*signal));
        let ignored = ignored.collect();
        let siblings = Siblings::Never;
        Ok(Self {
            executable,
            arguments,
            directory,
            environment,
            umask,
            ignored,
            image: Arc::new(image.into()),
            previous: None,
            loader,
            of_manager,
            siblings,
        })
    }

    /// Takes the executables of the predecessor's offer, in the order of [`EXECUTABLES`].
    pub(crate) fn set_previous(&mut self, offered: Vec<OwnedFd>) {
        self.previous = Previous::choose(&self.image, offered);
    }

    /// Why there can be no rollback.
    fn no_rollback(&self) -> Option<&'static str> {
        match &self.previous {
            _ if self.loader.is_some() => Some(
                "this service was started through the dynamic loader, which takes the program from its path: deploy the \
                 release before",
            ),
            None => Some("no other executable ran before this one, as far as this process knows"),
            Some(previous) if !previous.is_unchanged() => {
                Some("the executable that ran before was written to since: deploy the release before")
            }
            Some(_) => None,
        }
    }

    /// The number of the descriptor of an executable.
    fn number_of(&self, image: Image) -> Option<RawFd> {
        match image {
            Image::Release => None,
            Image::Own => Some(self.image.as_raw_fd()),
            Image::Previous => self.previous.as_ref().map(|previous| previous.file().as_raw_fd()),
        }
    }

    pub(crate) fn set_siblings(&mut self, siblings: Siblings) {
        self.siblings = siblings;
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts a successor. Beyond the standard streams it inherits `channel` alone.
    fn start(&self, image: Image, channel: BorrowedFd<'_>) -> Result<StartedProcess, SpawnError> {
        let is_sibling = self.siblings.are_wanted(&self.environment);
        let setup = ChildSetup { is_sibling, blocked: SigSet::empty(), own_group: false };
        self.start_with(image, HANDOVER, channel, setup, &PassedDescriptors::default())
    }

    /// Starts the first generation under a supervisor, with one end of the supervisor's socket and what a service
    /// manager has passed.
    ///
    /// It has a process group of its own. So a signal to the group of a terminal or a process manager reaches it once,
    /// through the supervisor. The signals that it takes stay blocked until it has handlers.
    pub(crate) fn start_supervised(
        &self,
        socket: BorrowedFd<'_>,
        upgrade: Signal,
        passed: PassedDescriptors,
    ) -> io::Result<(u32, OwnedFd)> {
        let blocked: SigSet = [Signal::SIGTERM, Signal::SIGINT, upgrade].into_iter().collect();
        let setup = ChildSetup { is_sibling: false, blocked, own_group: true };
        match self.start_with(Image::Release, SUPERVISOR, socket, setup, &passed) {
            Ok(StartedProcess { pid, pidfd, .. }) => Ok((pid.unsigned_abs(), pidfd)),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }

    /// Starts an executable. `variable` has the number of `channel` in it. What is passed keeps its numbers.
    fn start_with(
        &self,
        image: Image,
        variable: &str,
        channel: BorrowedFd<'_>,
        setup: ChildSetup,
        passed: &PassedDescriptors,
    ) -> Result<StartedProcess, SpawnError> {
        let path = match (self.number_of(image), &self.loader) {
            (None, None) => self.executable.clone(),
            // The loader itself takes the program from its path, for a rescue as well.
            (_, Some(loader)) => loader.path.clone(),
            // The child resolves it before close-on-exec closes the descriptor.
            (Some(number), None) => own_path(number),
        };
        let failed =
            |source| SpawnError::Exec { executable: path.clone(), source: hint::execute(&path, source) };
        // The child changes the directory, and its failure would look like a failure of exec.
        match fs::metadata(&self.directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(self.no_directory(Errno::ENOTDIR.into())),
            Err(error) => return Err(self.no_directory(error)),
        }
        let passed_numbers: Vec<RawFd> = passed.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let needed = passed_numbers.iter().copied().chain(self.number_of(image));
        let number = number_in_child(channel.as_raw_fd(), &needed.collect::<Vec<_>>());
        let environment = self
            .environment
            .iter()
            .cloned()
            .chain(self.of_manager.iter().map(|(name, value)| (name.into(), value.clone())))
            .chain(passed.variables.iter().map(|(name, value)| (name.into(), value.clone())))
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                name
            });
        let program = c_string(path.as_os_str()).map_err(failed)?;
        let directory = c_string(self.directory.as_os_str()).map_err(failed)?;
        if let (Image::Release, Some(_)) = (image, &self.loader) {
            // The loader would say it on stderr, and exit with status 127.
            File::open(&self.executable).map_err(|source| self.cannot_load(source))?;
        }
        let arguments = self.loader.as_ref().map_or(&self.arguments, |loader| &loader.arguments);
        let arguments = c_strings(arguments.iter().cloned()).map_err(failed)?;
        let environment = c_strings(environment).map_err(failed)?;
        let mut own = OwnVariable::new(variable, number);
        let job = Job {
            program: &program,
            arguments: &pointers(&arguments),
            environment: &mut with_place(pointers(&environment)),
            own: &mut own,
            directory: &directory,
            umask: self.umask.bits(),
            ignored: self.ignored,
            blocked: *setup.blocked.as_ref(),
            own_group: setup.own_group,
            passed: &passed_numbers,
            channel: channel.as_raw_fd(),
            number,
            failed: None,
        };
        spawn(job, setup.is_sibling).map_err(|FailedCall { call, errno }| match call {
            EXECVE => failed(errno.into()),
            call => SpawnError::Call { executable: path.clone(), source: hint::start(call, errno) },
        })
    }

    fn cannot_load(&self, source: io::Error) -> SpawnError {
        let source = hint::execute(&self.executable, source);
        SpawnError::Exec { executable: self.executable.clone(), source }
    }

    fn no_directory(&self, source: io::Error) -> SpawnError {
        SpawnError::Directory { directory: self.directory.clone(), source }
    }
}

/// Descriptors that a process inherits under their numbers here, and the variables that name them.
#[derive(Debug, Default)]
pub(crate) struct PassedDescriptors {
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) variables: Vec<(&'static str, OsString)>,
}

/// How a process is started.
struct ChildSetup {
    /// Whether it is a child of this process's parent.
    is_sibling: bool,
    /// The signals that are blocked in it.
    blocked: SigSet,
    /// Whether it has a process group of its own.
    own_group: bool,
}

impl Spawner for Launch {
    fn spawn(&mut self, image: Image, channel: OwnedFd) -> Result<Box<dyn Child>, String> {
        if let (Image::Previous, Some(reason)) = (image, self.no_rollback()) {
            return Err(reason.to_owned());
        }
        match self.start(image, channel.as_fd()) {
            Ok(process) => Ok(Box::new(process)),
            Err(error) => Err(error.to_string()),
        }
    }

    fn executable(&self) -> Option<&Path> {
        Some(&self.executable)
    }

    fn umask(&self) -> Option<u32> {
        Some(self.umask.bits())
    }

    fn executables(&self) -> Vec<(&'static str, Arc<OwnedFd>)> {
        if self.loader.is_some() {
            return Vec::new();
        }
        // A file that was written to is no release that has run.
        let previous = self.previous.as_ref().filter(|previous| previous.is_unchanged());
        let files = [Some(&self.image), previous.map(Previous::file)];
        EXECUTABLES.into_iter().zip(files).filter_map(|(name, file)| Some((name, file?.clone()))).collect()
    }

    fn check(&self, image: Image, command: &OsStr, variables: &[(OsString, OsString)]) -> io::Result<Check> {
        let previous = self.previous.as_ref().filter(|_| image == Image::Previous);
        let executable = match previous {
            Some(previous) => path_for_others(previous.file()),
            None => self.executable.clone(),
        };
        let arguments = self.arguments.get(1..).unwrap_or_default();
        let environment: Vec<_> = self.environment.iter().chain(variables).cloned().collect();
        Check::start(command, &executable, arguments, &self.directory, &environment, Some(self.umask))
    }
}

/// Why a successor could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("cannot run {}: {source}", executable.display())]
    Exec { executable: PathBuf, source: io::Error },
    #[error("cannot start a process for {}: {source}", executable.display())]
    Call { executable: PathBuf, source: io::Error },
    #[error("the directory that this service was started in, {}, cannot be used: {source}", directory.display())]
    Directory { directory: PathBuf, source: io::Error },
}

/// The working directory in the shell's form: a symbolic link such as `current` is not resolved.
fn logical_directory() -> io::Result<PathBuf> {
    let physical = env::current_dir()
        .map_err(|error| io::Error::new(error.kind(), format!("the working directory: {error}")))?;
    let here = fs::metadata(".")?;
    Ok(env::var_os("PWD")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && fs::metadata(path).is_ok_and(|there| same_file(&here, &there)))
        .unwrap_or(physical))
}

fn same_file(a: &Metadata, b: &Metadata) -> bool {
    a.dev() == b.dev() && a.ino() == b.ino()
}

/// The path that was executed, with symbolic links unresolved. When a link is moved, it leads to the next release.
fn resolve(name: &OsStr, path: &OsStr, directory: &Path, running: &Metadata) -> Option<PathBuf> {
    let is_us = |candidate: &PathBuf| fs::metadata(candidate).is_ok_and(|file| same_file(&file, running));
    if name.as_bytes().contains(&b'/') {
        return Some(directory.join(name)).filter(is_us);
    }
    env::split_paths(path).map(|entry| directory.join(entry).join(name)).find(is_us)
}

/// The file that this process runs.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// The bits that a umask has, umask(2).
const ALL_PERMISSIONS: Mode = Mode::from_bits_truncate(0o777);

/// The umask of this process, proc_pid_status(5). Without /proc only setting it reads it, umask(2), and another thread
/// might make a file in between.
fn own_umask() -> Mode {
    let shown =
        proc::read(Path::new("/proc/self/status")).ok().and_then(|status| proc::field(&status, "Umask"));
    if let Some(umask) = shown.and_then(|umask| libc::mode_t::from_str_radix(&umask, 8).ok()) {
        return Mode::from_bits_truncate(umask);
    }
    let own = umask(Mode::from_bits_truncate(0o077));
    umask(own);
    own
}

/// The lowest number of the channel in the child. A release may be a script, which uses the numbers of one digit as it likes:
/// `exec 3<&0`, sh(1p).
const LOWEST_NUMBER: RawFd = 10;

/// The number of `channel` in the child: the lowest from [`LOWEST_NUMBER`] on that is free there. What is closed on
/// exec leaves its number free, so the number is low however many descriptors are open here. In use are `needed`, and
/// what the parent of the first process let it inherit.
fn number_in_child(channel: RawFd, needed: &[RawFd]) -> RawFd {
    let is_free = |number: RawFd| {
        // SAFETY: fcntl with F_GETFD takes any number. It returns EBADF for one that is not open.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        flags == -1 || flags & libc::FD_CLOEXEC != 0
    };
    (LOWEST_NUMBER..)
        .find(|number| !needed.contains(number) && (*number == channel || is_free(*number)))
        .unwrap_or(channel)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

fn c_strings(texts: impl Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    texts.map(|text| c_string(&text)).collect()
}

/// The list with a place for the own variable before its end.
fn with_place(mut list: Vec<*mut libc::c_char>) -> Vec<*mut libc::c_char> {
    list.push(ptr::null_mut());
    list
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// What the clone executes. The clone shares the memory of this process until the exec, while the calling thread waits.
/// So everything is prepared here: the clone allocates nothing and touches nothing else.
struct Job<'a> {
    program: &'a CStr,
    arguments: &'a [*mut libc::c_char],
    /// The last place but one is for the own variable.
    environment: &'a mut [*mut libc::c_char],
    own: &'a mut OwnVariable,
    directory: &'a CStr,
    umask: libc::mode_t,
    ignored: SigSet,
    blocked: libc::sigset_t,
    own_group: bool,
    /// The descriptors that it inherits under their numbers.
    passed: &'a [RawFd],
    channel: RawFd,
    /// The number of the channel in the program.
    number: RawFd,
    failed: Option<FailedCall>,
}

/// A system call of a start that failed.
#[derive(Clone, Copy, Debug)]
struct FailedCall {
    call: &'static str,
    errno: Errno,
}

/// The call that fails because of the file. Before it no call is about the file.
const EXECVE: &str = "execve";

/// Starts a child, or a sibling.
fn spawn(mut job: Job<'_>, is_sibling: bool) -> Result<StartedProcess, FailedCall> {
    let of = |call| move |errno| FailedCall { call, errno };
    const STACK: usize = 64 * 1024;
    let mut stack = vec![MaybeUninit::<u128>::uninit(); STACK / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end;
    let mut pidfd: RawFd = -1;
    let parent = if is_sibling { libc::CLONE_PARENT } else { 0 };
    // CLONE_PIDFD makes the pidfd in the same call. A child that dies at once may be reaped by the manager, or by
    // another wait in this process, and its number may be reused.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | parent;
    // No handler of this process may run in the clone, because they share memory.
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
        .map_err(of("sigprocmask"))?;
    // SAFETY: the stack and the job outlive the call, which returns once the clone has executed the program or exited.
    // `top` is the end of the stack, aligned for any type. The kernel stores the pidfd where the pointer says.
    let pid = unsafe {
        libc::clone(execute, top.cast(), flags | libc::SIGCHLD, (&raw mut job).cast(), &raw mut pidfd)
    };
    let cloned = Errno::result(pid);
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None).map_err(of("sigprocmask"))?;
    let pid = cloned.map_err(of("clone"))?;
    // SAFETY: clone(2) has just made it, closed on exec, and no other code knows its number.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if let Some(failed) = job.failed {
        if !is_sibling {
            match pidfd::wait(libc::P_PIDFD, pidfd.as_raw_fd().unsigned_abs(), 0) {
                // ECHILD: another wait in this process has reaped the child.
                Ok(_) | Err(_) => {}
            }
        }
        return Err(failed);
    }
    Ok(StartedProcess { pid, pidfd, is_child: !is_sibling })
}

/// Runs in the clone: executes the program, or stores the errno.
extern "C" fn execute(job: *mut libc::c_void) -> libc::c_int {
    // SAFETY: it is the job of the thread that waits for this clone, and no other thread touches it meanwhile.
    let job = unsafe { &mut *job.cast::<Job<'_>>() };
    for signal in 1..=libc::SIGRTMAX() {
        set_default(signal);
    }
    for signal in &job.ignored {
        // SAFETY: SIG_IGN is no code, and signal(3) is one system call for these signals.
        unsafe { libc::signal(signal as libc::c_int, libc::SIG_IGN) };
    }
    // SAFETY: getpid takes nothing and cannot fail.
    let own = job.own.of(unsafe { libc::getpid() }.unsigned_abs());
    if let [.., place, _end] = &mut *job.environment {
        *place = own;
    }
    let result = set_up(job);
    let call = result.err().unwrap_or(EXECVE);
    if result.is_ok() {
        // SAFETY: the strings end in NUL and the lists in a null pointer.
        unsafe {
            libc::execve(job.program.as_ptr(), job.arguments.as_ptr().cast(), job.environment.as_ptr().cast())
        };
    }
    job.failed = Some(FailedCall { call, errno: Errno::last() });
    signals::exit_now(127)
}

/// Prepares the clone for the program. The error is the name of the first call that fails. Without CLONE_FS and
/// CLONE_FILES the clone has its own working directory, umask and descriptors, so this process keeps its own.
fn set_up(job: &Job<'_>) -> Result<(), &'static str> {
    // SAFETY: setpgid of this process takes no pointer.
    if job.own_group && unsafe { libc::setpgid(0, 0) } != 0 {
        return Err("setpgid");
    }
    // SAFETY: umask takes any number, and cannot fail.
    unsafe { libc::umask(job.umask) };
    // SAFETY: a path that ends in NUL.
    if unsafe { libc::chdir(job.directory.as_ptr()) } != 0 {
        return Err("chdir");
    }
    for fd in job.passed {
        // SAFETY: F_SETFD takes any number.
        if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } != 0 {
            return Err("fcntl");
        }
    }
    let inheritable = match job.channel == job.number {
        // SAFETY: as above.
        true => unsafe { libc::fcntl(job.channel, libc::F_SETFD, 0) },
        // SAFETY: dup2 takes any numbers. The exec would have closed in this table what dup2 closes.
        false => unsafe { libc::dup2(job.channel, job.number) },
    };
    if inheritable < 0 {
        return Err("dup2");
    }
    // SAFETY: the set is initialised.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const job.blocked, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err("sigprocmask"),
    }
}

/// Sets the default action of a signal. It fails for signals that have no other.
///
/// The system call is made directly, because the C library takes a lock for SIGABRT, as abort(3) does. The clone shares
/// the memory of its parent, and a thread of the parent may have that lock.
fn set_default(signal: libc::c_int) {
    /// The size of the kernel's signal set in bytes: 128 signals on MIPS, 64 elsewhere.
    const SET: usize = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 16 } else { 8 };
    /// The kernel's `struct sigaction` has at most four words.
    const DEFAULT: [u64; 4] = [0; 4];
    // SAFETY: zeroes are the default action, without code, flags or mask. The kernel stores nothing through a null
    // pointer.
    let _: libc::c_long = unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), ptr::null_mut::<libc::c_void>(), SET)
    };
}

/// A process that was started here and has not been reaped.
#[derive(Debug)]
pub(crate) struct StartedProcess {
    pid: libc::pid_t,
    pidfd: OwnedFd,
    /// If not, the service manager reaps it, and only the manager learns how it ended.
    is_child: bool,
}

impl Child for StartedProcess {
    fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// A dead process gets no signal.
    fn kill(&self) {
        pidfd::signal(self.as_fd(), libc::SIGKILL);
    }

    /// Reaps the process if it is dead, and describes its end. It never calls `waitpid(-1)`: other children belong to
    /// the program.
    fn reap(&self) -> Option<String> {
        if !self.is_child {
            return pidfd::is_dead(self.as_fd())
                .then(|| "exited (the service manager has its status)".to_owned());
        }
        match pidfd::wait(libc::P_PIDFD, self.pidfd.as_raw_fd().unsigned_abs(), libc::WNOHANG) {
            Ok(ended) => ended.map(|(_, ended)| ended.to_string()),
            // SIGCHLD is ignored, or other code in this process calls waitpid(-1). The pidfd still shows that the
            // process is dead.
            Err(_) if pidfd::is_dead(self.as_fd()) => {
                Some("exited; its status was taken by another wait in this process".into())
            }
            Err(_) => None,
        }
    }

    fn may_fork(&self) -> bool {
        true
    }
}

impl AsFd for StartedProcess {
    /// Readable once the process is dead, pidfd_open(2).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags};

    use super::*;
    use crate::sys::fault::failing;

    /// Runs a program with one argument, after `change` has changed the job.
    fn run(program: &CStr, argument: &CStr, change: impl FnOnce(&mut Job<'_>)) -> io::Result<StartedProcess> {
        let channel = File::open("/dev/null").unwrap();
        let arguments = [program.to_owned(), argument.to_owned()];
        let mut own = OwnVariable::new("OWN", channel.as_raw_fd());
        let mut job = Job {
            program,
            arguments: &pointers(&arguments),
            environment: &mut with_place(pointers(&[])),
            own: &mut own,
            directory: c"/",
            umask: 0o022,
            ignored: SigSet::empty(),
            blocked: *SigSet::empty().as_ref(),
            own_group: false,
            passed: &[],
            channel: channel.as_raw_fd(),
            number: channel.as_raw_fd(),
            failed: None,
        };
        change(&mut job);
        spawn(job, false).map_err(|failed| io::Error::from(failed.errno))
    }

    /// Each failure is reported, and no child is left.
    #[test]
    fn a_program_that_cannot_be_run_leaves_no_child() {
        let children = || fs::read_to_string("/proc/thread-self/children").unwrap();
        for (errno, error) in [
            (Errno::ENOENT, run(c"/nowhere", c"", |_| ())),
            (Errno::EACCES, run(c"/dev/null", c"", |_| ())),
            (Errno::ENOTDIR, run(c"/bin/true", c"", |job| job.directory = c"/dev/null")),
            (Errno::EBADF, run(c"/bin/true", c"", |job| job.channel = 1 << 30)),
            (Errno::EBADF, run(c"/bin/true", c"", |job| job.passed = &[1 << 30])),
            (Errno::EMFILE, failing(libc::SYS_clone, Errno::EMFILE, || run(c"/bin/true", c"", |_| ()))),
        ] {
            assert_eq!(error.unwrap_err().raw_os_error(), Some(errno as i32));
            assert_eq!(children(), "", "{errno}");
        }
    }

    #[test]
    fn b11_the_variable_of_a_process_names_that_process() {
        let output = tempfile::NamedTempFile::new().unwrap();
        let path = CString::new(output.path().as_os_str().as_bytes()).unwrap();
        let process = run(c"/bin/sh", &path, |job| {
            let arguments: &'static [CString] = Box::leak(Box::new([
                c"sh".to_owned(),
                c"-c".to_owned(),
                CString::new(format!("echo $$ $OWN >{}", output.path().display())).unwrap(),
            ]));
            job.arguments = Box::leak(pointers(arguments).into_boxed_slice());
        });
        let process = process.unwrap();
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        crate::sys::poll::until(&mut fds, None).unwrap();
        assert_eq!(process.reap().as_deref(), Some("exited with status 0"));
        let text = fs::read_to_string(output.path()).unwrap();
        let (pid, own) = text.trim().split_once(' ').unwrap();
        let (number, addressee) = own.split_once(':').unwrap();
        assert!(number.parse::<RawFd>().is_ok());
        assert_eq!((pid, pid.to_owned()), (addressee, process.pid().to_string()));
    }

    /// The numbers are those of the child, not of this process.
    #[test]
    fn a10_the_channel_has_a_low_number_whatever_is_open_here() {
        let null = File::open("/dev/null").unwrap();
        let many: Vec<_> = (0..300).map(|_| null.try_clone().unwrap()).collect();
        let highest = many.iter().map(AsRawFd::as_raw_fd).max().unwrap();
        let inherited = null.try_clone().unwrap();
        // SAFETY: F_SETFD of an open descriptor.
        assert_eq!(unsafe { libc::fcntl(inherited.as_raw_fd(), libc::F_SETFD, 0) }, 0);
        let needed: Vec<_> = (3..100).collect();
        let number = number_in_child(highest, &needed);
        assert!((100..=highest).contains(&number) && number != inherited.as_raw_fd(), "{number}");
        assert!((LOWEST_NUMBER..100).contains(&number_in_child(highest, &[])));
        // A channel that already has that number keeps it.
        let below: Vec<_> = (0..highest).collect();
        assert_eq!(number_in_child(highest, &below), highest);

        let path = CString::new(format!("/proc/self/fd/{number}")).unwrap();
        let process = run(c"/bin/cat", &path, |job| (job.channel, job.number) = (highest, number)).unwrap();
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        crate::sys::poll::until(&mut fds, None).unwrap();
        assert_eq!(process.reap().as_deref(), Some("exited with status 0"));
        assert!(many.iter().all(|file| file.metadata().is_ok()), "this process keeps its own");
    }

    #[test]
    fn a_signal_is_told_whether_it_has_a_name_or_not() {
        for (signal, said) in [(libc::SIGTERM, "SIGTERM"), (40, "signal 40")] {
            let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            let pid = libc::pid_t::try_from(other.id()).unwrap();
            let process = StartedProcess { pid, pidfd: pidfd::open(other.id()).unwrap(), is_child: true };
            assert_eq!(process.reap(), None, "it lives");
            pidfd::signal(process.as_fd(), signal);
            let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            crate::sys::poll::until(&mut fds, None).unwrap();
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
