//! Stops every thread of a service, and of what it starts, at each of its system calls, ptrace(2).
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use processes::proc;

/// What is to become of a system call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Pass,
    /// Its process gets SIGKILL before it is made.
    Kill,
    /// It is not made, and returns this error.
    Fail(Errno),
    /// It is made so much later, while everything else goes on.
    Hold(Duration),
    /// Its process gets SIGTERM before it is made.
    Stop,
    /// Its process gets SIGSTOP, and it is never made.
    Stall,
    /// Its process gets SIGSTOP, and SIGCONT so much later; then it is made.
    Pause(Duration),
    /// Its thread forks before it is made, and goes on in the child; its process exits with status 0.
    Fork,
}

/// A process that there is from now on, or a system call that begins or has returned.
pub(crate) enum Call {
    Born { process: i32, by: i32 },
    Entry { process: i32, thread: i32, number: i64, arguments: [u64; 2] },
    Exit { process: i32, thread: i32, number: i64, result: i64 },
}

#[derive(Clone, Copy, Default)]
struct Task {
    process: i32,
    call: i64,
    fails_with: Option<Errno>,
    /// It forks in the place of the call.
    forks: bool,
}

/// Longer than any scene.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

/// The tracer of everything that it has been attached to; it is a thread's own, like ptrace(2).
#[derive(Default)]
pub(crate) struct Tracer {
    tasks: HashMap<i32, Task>,
    /// Threads that stand still until their time has come.
    held: Vec<(Pid, Instant)>,
    /// Processes that get SIGCONT when their time has come.
    paused: Vec<(i32, Instant)>,
    /// Every thread is let go at its next stop.
    letting_go: bool,
    /// The call in the place of which a thread has forked.
    forked_at: Option<registers::Registers>,
}

impl Tracer {
    /// Attaches to every thread of a process. What it starts from now on is traced from its first instruction.
    ///
    /// # Errors
    ///
    /// EPERM where a container does not permit ptrace(2).
    pub(crate) fn attach(&mut self, process: i32) -> nix::Result<()> {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC;
        // Until no thread is new, for those that are not attached to may start others.
        loop {
            let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the process lives");
            let threads = threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse::<i32>().ok());
            let new: Vec<i32> = threads.filter(|thread| !self.tasks.contains_key(thread)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for thread in new {
                let pid = Pid::from_raw(thread);
                match ptrace::seize(pid, options).and_then(|()| ptrace::interrupt(pid)) {
                    Ok(()) => _ = self.tasks.insert(thread, Task { process, ..Task::default() }),
                    // It has ended in between.
                    Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
    }

    /// Takes everything that has happened, and asks `judge` about each system call. Returns the threads that
    /// have exited, with their status.
    pub(crate) fn pump(&mut self, mut judge: impl FnMut(Call) -> Verdict) -> Vec<(i32, i32)> {
        let mut ended = Vec::new();
        let now = Instant::now();
        let (due, held): (Vec<_>, _) = std::mem::take(&mut self.held).into_iter().partition(|it| it.1 <= now);
        self.held = held;
        self.paused.retain(|(process, until)| {
            let is_due = *until <= now;
            if is_due {
                send(*process, Signal::SIGCONT);
            }
            !is_due
        });
        for (thread, _) in due {
            self.resume(thread, None);
        }
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::PtraceSyscall(thread)) => match self.stopped(thread, &mut judge) {
                    Some(time) => self.held.push((thread, Instant::now() + time)),
                    None => self.resume(thread, None),
                },
                // The stop of a process that has got SIGSTOP: it stays so.
                Ok(WaitStatus::PtraceEvent(thread, Signal::SIGSTOP, libc::PTRACE_EVENT_STOP)) => {
                    self.task(thread);
                    listen(thread);
                }
                Ok(WaitStatus::PtraceEvent(thread, _, event)) => {
                    let by = self.task(thread).process;
                    if event == libc::PTRACE_EVENT_STOP {
                        if let Some(call) = self.forked_at {
                            registers::go_on_in_fork(thread, call);
                        }
                    }
                    // Known before its first system call: should its parent be killed now, there is another.
                    if [libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK, libc::PTRACE_EVENT_CLONE]
                        .contains(&event)
                    {
                        let new = ptrace::getevent(thread).ok().and_then(|new| i32::try_from(new).ok());
                        if let Some(new) = new {
                            judge(Call::Born { process: self.task(Pid::from_raw(new)).process, by });
                        }
                    }
                    self.resume(thread, None);
                }
                Ok(WaitStatus::Stopped(thread, signal)) => self.resume(thread, Some(signal)),
                Ok(WaitStatus::Exited(thread, status)) => {
                    self.tasks.remove(&thread.as_raw());
                    ended.push((thread.as_raw(), status));
                }
                Ok(WaitStatus::Signaled(thread, ..)) => _ = self.tasks.remove(&thread.as_raw()),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return ended,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => panic!("waitpid: {errno}"),
            }
        }
    }

    /// The processes that this thread traces, from /proc. What a thread has started at the moment of its death is among them
    /// before it has been heard of.
    pub(crate) fn traced(&self) -> Vec<i32> {
        let tracer = gettid().to_string();
        let is_ours = |pid: &i32| proc::status(pid, "TracerPid").is_some_and(|it| it == tracer);
        proc::all().filter_map(|pid| i32::try_from(pid).ok()).filter(is_ours).collect()
    }

    fn task(&mut self, thread: Pid) -> &mut Task {
        self.tasks.entry(thread.as_raw()).or_insert_with(|| {
            let process = proc::status(thread, "Tgid").and_then(|process| process.parse().ok());
            // A thread that is dead by now makes no system call any more.
            let process = process.unwrap_or(thread.as_raw());
            Task { process, ..Task::default() }
        })
    }

    /// Lets every thread go on untraced.
    pub(crate) fn let_go(&mut self) {
        self.letting_go = true;
        for (thread, _) in std::mem::take(&mut self.held) {
            self.resume(thread, None);
        }
        // Until none is left: one that is stopped or dead by now is heard of as well.
        while !self.tasks.is_empty() {
            for thread in self.tasks.keys() {
                match ptrace::interrupt(Pid::from_raw(*thread)) {
                    Ok(()) | Err(_) => {}
                }
            }
            self.pump(|_| Verdict::Pass);
            self.tasks.retain(|thread, _| proc::exists(thread));
            thread::yield_now();
        }
        self.letting_go = false;
    }

    fn resume(&mut self, thread: Pid, signal: Option<Signal>) {
        let resumed =
            if self.letting_go && self.tasks.get(&thread.as_raw()).is_none_or(|it| it.fails_with.is_none()) {
                self.tasks.remove(&thread.as_raw());
                ptrace::detach(thread, signal)
            } else {
                ptrace::syscall(thread, signal)
            };
        match resumed {
            // ESRCH: it was killed meanwhile, and its end is the next that is heard of it.
            Ok(()) | Err(_) => {}
        }
    }

    /// Returns for how long it is to stay so.
    fn stopped(&mut self, thread: Pid, judge: &mut impl FnMut(Call) -> Verdict) -> Option<Duration> {
        // A thread that was killed meanwhile has nothing to say.
        let info = ptrace::syscall_info(thread).ok()?;
        let task = self.task(thread);
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            // SAFETY: `op` says which of the variants the kernel has filled in.
            let entry = unsafe { info.u.entry };
            task.call = i64::try_from(entry.nr).unwrap_or(-1);
            match judge(Call::Entry {
                process: task.process,
                thread: thread.as_raw(),
                number: task.call,
                arguments: [entry.args[0], entry.args[1]],
            }) {
                Verdict::Pass => {}
                Verdict::Hold(time) => return Some(time),
                Verdict::Kill => send(task.process, Signal::SIGKILL),
                Verdict::Stop => send(task.process, Signal::SIGTERM),
                Verdict::Stall => {
                    send(task.process, Signal::SIGSTOP);
                    return Some(FOR_EVER);
                }
                Verdict::Pause(time) => {
                    let process = task.process;
                    send(process, Signal::SIGSTOP);
                    self.paused.push((process, Instant::now() + time));
                    return Some(time);
                }
                Verdict::Fork => {
                    (task.forks, task.call) = (true, libc::SYS_fork);
                    self.forked_at = registers::fork(thread);
                }
                Verdict::Fail(errno) => {
                    task.fails_with = Some(errno);
                    // A call that does not exist does nothing.
                    registers::skip_call(thread);
                }
            }
        } else if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            if let Some(errno) = task.fails_with.take() {
                registers::set_error(thread, errno);
            }
            // SAFETY: `op` says which of the variants the kernel has filled in.
            let result = unsafe { info.u.exit.sval };
            if std::mem::take(&mut task.forks) {
                registers::exit(thread);
            }
            judge(Call::Exit { process: task.process, thread: thread.as_raw(), number: task.call, result });
        }
        None
    }
}

/// Has a thread stay stopped with its process until that is continued or killed.
fn listen(thread: Pid) {
    // SAFETY: the request takes no pointer.
    let result = unsafe { libc::ptrace(libc::PTRACE_LISTEN, thread.as_raw(), 0, 0) };
    match Errno::result(result) {
        // ESRCH: it was killed meanwhile.
        Ok(_) | Err(_) => {}
    }
}

/// The text that a thread is about to send with sendmsg(2), whose second argument this is.
pub(crate) fn text_of(process: i32, message: u64) -> String {
    String::from_utf8_lossy(&bytes_of(process, message)).into_owned()
}

/// The first bytes of it.
pub(crate) fn bytes_of(process: i32, message: u64) -> Vec<u8> {
    const MAX: usize = 4096;
    // `msghdr` has the list of buffers after the name and its length, and that begins with an address and a length.
    let bytes = || {
        let memory = File::open(format!("/proc/{process}/mem"))?;
        let word = |at| {
            let mut word = [0; 8];
            memory.read_exact_at(&mut word, at)?;
            io::Result::Ok(u64::from_ne_bytes(word))
        };
        let buffer = word(message + 16)?;
        let length = usize::try_from(word(buffer + 8)?).unwrap_or(MAX).min(MAX);
        let mut bytes = vec![0; length];
        memory.read_exact_at(&mut bytes, word(buffer)?)?;
        io::Result::Ok(bytes)
    };
    // One that was killed meanwhile says nothing.
    bytes().unwrap_or_default()
}

/// Has the first process of a service start as its successors do, with no signal ignored: a shell ignores SIGINT for what it runs in
/// the background.
pub(crate) fn ignore_no_interrupt() -> nix::Result<()> {
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }.map(drop)
}

/// Whether this process may trace a child of its own here.
pub(crate) fn is_possible() -> Result<(), String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err("the registers of this architecture are not known".to_owned());
    }
    let child = std::process::Command::new("sleep").arg("60").spawn();
    let mut child = child.map_err(|error| format!("sleep cannot be run: {error}"))?;
    let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
    let traced = ptrace::seize(Pid::from_raw(pid), Options::empty());
    child.kill().and_then(|()| child.wait()).map_err(|error| format!("sleep cannot be ended: {error}"))?;
    traced.map_err(|errno| format!("ptrace is not permitted: {errno}"))
}

#[cfg(target_arch = "x86_64")]
mod registers {
    use super::{Errno, Pid, libc, ptrace};

    pub(super) type Registers = libc::user_regs_struct;

    /// The length of the instruction that makes a system call.
    const SYSCALL: u64 = 2;

    /// A call that does not exist does nothing.
    pub(super) fn skip_call(thread: Pid) {
        change(thread, |registers| registers.orig_rax = u64::MAX);
    }

    pub(super) fn set_error(thread: Pid, errno: Errno) {
        change(thread, |registers| registers.rax = u64::MAX - u64::from(errno as u32) + 1);
    }

    /// Makes the call that begins a fork(2), and returns what it was to be.
    pub(super) fn fork(thread: Pid) -> Option<Registers> {
        let call = ptrace::getregs(thread).ok()?;
        change(thread, |registers| registers.orig_rax = libc::SYS_fork.unsigned_abs());
        Some(call)
    }

    /// Has a thread that is about to return to its program exit instead, with its process.
    pub(super) fn exit(thread: Pid) {
        change(thread, |registers| {
            make(registers, libc::SYS_exit_group.unsigned_abs());
            registers.rdi = 0;
        });
    }

    /// Has a thread make this call, if it is the fork that was made in its place. The C library makes its forks by clone(2).
    pub(super) fn go_on_in_fork(thread: Pid, call: Registers) {
        change(thread, |registers| {
            if registers.orig_rax == libc::SYS_fork.unsigned_abs() && registers.rip == call.rip {
                *registers = call;
                make(registers, call.orig_rax);
            }
        });
    }

    /// Has the instruction before be executed once more, with this number.
    fn make(registers: &mut Registers, number: u64) {
        registers.rip -= SYSCALL;
        registers.rax = number;
        // No call that was interrupted is to be restarted.
        registers.orig_rax = u64::MAX;
    }

    fn change(thread: Pid, change: impl FnOnce(&mut Registers)) {
        let changed = ptrace::getregs(thread).and_then(|mut registers| {
            change(&mut registers);
            ptrace::setregs(thread, registers)
        });
        match changed {
            // One that was killed meanwhile.
            Ok(()) | Err(_) => {}
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod registers {
    use super::{Errno, Pid};

    #[derive(Clone, Copy)]
    pub(super) struct Registers;

    pub(super) fn skip_call(_thread: Pid) {
        unreachable!("`is_possible` said no");
    }

    pub(super) fn set_error(_thread: Pid, _errno: Errno) {
        unreachable!("`is_possible` said no");
    }

    pub(super) fn fork(_thread: Pid) -> Option<Registers> {
        unreachable!("`is_possible` said no");
    }

    pub(super) fn exit(_thread: Pid) {
        unreachable!("`is_possible` said no");
    }

    pub(super) fn go_on_in_fork(_thread: Pid, _call: Registers) {
        unreachable!("`is_possible` said no");
    }
}

pub(crate) fn send(process: i32, signal: Signal) {
    match kill(Pid::from_raw(process), signal) {
        Ok(()) | Err(_) => {}
    }
}
