//! The phases and the open connections of the processes of a service, recorded over connections of their own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::conversation::{Conversation, Line, nothing_listens};
use super::super::output::Failure;
use crate::base::status::{Phase, Status};
use crate::control::{Reply, Request};

/// The time between two looks at the open connections. A phase is told when it begins.
const SAMPLE: Duration = Duration::from_millis(100);
/// The time that a process has for its first answer. After that it is asked again.
const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// The pause before a successor without an answer is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// What one process did.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// Each phase, from its beginning on.
    pub(crate) phases: Vec<(Instant, Phase)>,
    /// The number of open connections and guards, at each change.
    pub(crate) open: Vec<(Instant, u64)>,
    /// When its connection ended.
    pub(crate) gone: Option<Instant>,
}

/// What all processes did.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// The executable of the process that was asked to upgrade.
    pub(crate) executable: Option<PathBuf>,
    /// The process that was asked to upgrade is the first one.
    pub(crate) processes: Vec<Watched>,
}

/// Watches each process of a service.
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    began: Instant,
    executable: Option<PathBuf>,
}

struct Shared {
    control: PathBuf,
    state: Mutex<State>,
    /// Notified at the end of a process.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    processes: Vec<Watched>,
    /// The successors that a thread looks for, or has found.
    sought: Vec<u32>,
    threads: Vec<JoinHandle<()>>,
    is_over: bool,
}

impl Recorder {
    /// Begins with the process that serves now.
    pub(crate) fn start(control: &Path, deadline: Instant) -> Result<Self, Failure> {
        let mut conversation =
            Conversation::open(control, deadline)?.ok_or_else(|| nothing_listens(control))?;
        let (status, _) = conversation.status()?;
        let began = Instant::now();
        let shared = Arc::new(Shared {
            control: control.to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        conversation.ask(Request::Watch)?;
        shared.note(&status);
        let pid = status.pid;
        let recorder = Self {
            shared: Arc::clone(&shared),
            began,
            executable: status.executable.map(|executable| executable.path),
        };
        shared.spawn(move |shared| shared.follow(conversation, pid)).map_err(Failure::no_thread)?;
        Ok(recorder)
    }

    /// Returns when the process that was asked to upgrade is gone, or at the deadline.
    pub(crate) fn wait_for_the_drain(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let lives = |state: &mut State| state.processes.first().is_some_and(|old| old.gone.is_none());
        drop(self.shared.changed.wait_timeout_while(self.shared.state(), left, lives));
    }

    pub(crate) fn finish(self) -> Recording {
        self.end();
        let processes = std::mem::take(&mut self.shared.state().processes);
        let executable = self.executable.clone();
        Recording { began: self.began, ended: Instant::now(), executable, processes }
    }

    /// Ends the threads.
    fn end(&self) {
        self.shared.state().is_over = true;
        loop {
            let thread = self.shared.state().threads.pop();
            let Some(thread) = thread else { return };
            // The panic hook has printed a panic of the thread.
            match thread.join() {
                Ok(()) | Err(_) => {}
            }
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(self: &Arc<Self>, run: impl FnOnce(&Arc<Self>) + Send + 'static) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        let thread =
            thread::Builder::new().name("tableflip-report".to_owned()).spawn(move || run(&shared))?;
        self.state().threads.push(thread);
        Ok(())
    }

    /// Notes what a process says of itself.
    fn note(&self, status: &Status) {
        let now = Instant::now();
        let mut state = self.state();
        let at = match state.processes.iter().position(|process| process.pid == status.pid) {
            Some(at) => at,
            None => {
                state.processes.push(Watched {
                    generation: status.generation,
                    pid: status.pid,
                    phases: Vec::new(),
                    open: Vec::new(),
                    gone: None,
                });
                state.processes.len() - 1
            }
        };
        let process = &mut state.processes[at];
        if process.phases.last().is_none_or(|(_, phase)| *phase != status.phase) {
            process.phases.push((now, status.phase));
        }
        if process.open.last().is_none_or(|(_, open)| *open != status.open) {
            process.open.push((now, status.open));
        }
    }

    /// Records a process until its connection ends.
    fn follow(self: &Arc<Self>, mut conversation: Conversation, pid: u32) {
        // `watch` is asked for.
        let mut is_asked = true;
        while !self.state().is_over {
            conversation.set_deadline(Instant::now() + SAMPLE);
            match conversation.receive() {
                Ok(Some(Line { reply: Some(Reply::Status { status, .. }), .. })) => {
                    is_asked = false;
                    self.note(&status);
                    self.look_for_the_successor_of(&status);
                }
                Ok(Some(_)) => {}
                Err(failure) if failure.is_no_answer() => {
                    if !is_asked && conversation.ask(Request::Status).is_err() {
                        break;
                    }
                    is_asked = true;
                }
                Ok(None) | Err(_) => break,
            }
        }
        let mut state = self.state();
        if !state.is_over {
            let gone = state.processes.iter_mut().find(|process| process.pid == pid);
            if let Some(process) = gone {
                process.gone = Some(Instant::now());
            }
            self.changed.notify_all();
        }
    }

    /// A successor that serves has the control socket.
    fn look_for_the_successor_of(self: &Arc<Self>, status: &Status) {
        let Some(pid) = status.successor else { return };
        let serves = matches!(status.phase, Phase::Standby | Phase::Draining);
        if !serves || self.state().sought.contains(&pid) {
            return;
        }
        self.state().sought.push(pid);
        if self.spawn(move |shared| shared.find(pid)).is_err() {
            // Without a thread the picture shows the other processes.
        }
    }

    fn find(self: &Arc<Self>, pid: u32) {
        while !self.state().is_over {
            if let Ok((conversation, status)) = self.ask_the_one_that_serves() {
                // Another process serves again.
                if status.pid == pid {
                    self.note(&status);
                    self.follow(conversation, pid);
                }
                return;
            }
            thread::sleep(PAUSE);
        }
    }

    fn ask_the_one_that_serves(&self) -> Result<(Conversation, Status), Failure> {
        let conversation = Conversation::open(&self.control, Instant::now() + FIRST_ANSWER)?;
        let mut conversation = conversation.ok_or_else(|| nothing_listens(&self.control))?;
        let (status, _) = conversation.status()?;
        conversation.ask(Request::Watch)?;
        Ok((conversation, status))
    }
}
