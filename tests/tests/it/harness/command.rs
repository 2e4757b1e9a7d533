//! How a service is to be started: listeners, timeouts, environment, executable, plan.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::{Dir, Process, Service, add_to_plan};

/// How a service is to be started.
pub(crate) struct Command<'d> {
    pub(super) dir: &'d Dir,
    pub(super) program: PathBuf,
    pub(super) arg0: Option<OsString>,
    pub(super) args: Vec<OsString>,
    pub(super) env: HashMap<OsString, OsString>,
    pub(super) listeners: Vec<String>,
}

impl<'d> Command<'d> {
    pub(super) fn new(dir: &'d Dir, program: PathBuf) -> Self {
        let mut env = HashMap::new();
        for name in ["PATH", "LLVM_PROFILE_FILE"] {
            env.extend(std::env::var_os(name).map(|value| (name.into(), value)));
        }
        Self { dir, program, arg0: None, args: Vec::new(), env, listeners: Vec::new() }
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    pub(crate) fn without_env(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.remove(name.as_ref());
        self
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// The program that is run.
    pub(crate) fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = path.into();
        self
    }

    /// Started by another program, which executes it: `PROGRAM ARGS... BINARY`.
    pub(crate) fn started_by(mut self, program: &str, args: &[&str]) -> Self {
        let binary = std::mem::replace(&mut self.program, program.into());
        self.args.insert(0, binary.into());
        self.args.splice(0..0, args.iter().map(OsString::from));
        self
    }

    /// What the program sees as its name, argv[0].
    pub(crate) fn arg0(mut self, name: impl Into<OsString>) -> Self {
        self.arg0 = Some(name.into());
        self
    }

    pub(crate) fn probation(self, duration: &str) -> Self {
        self.env("TABLEFLIP_PROBATION", duration)
    }

    pub(crate) fn upgrade_timeout(self, duration: &str) -> Self {
        self.env("TABLEFLIP_UPGRADE_TIMEOUT", duration)
    }

    pub(crate) fn drain_timeout(self, duration: &str) -> Self {
        self.env("TABLEFLIP_DRAIN_TIMEOUT", duration)
    }

    /// One listener more.
    pub(crate) fn listen(mut self, name: &str, address: &str) -> Self {
        self.listeners.push(format!("{name} {address}"));
        self
    }

    /// None of the listeners so far.
    pub(crate) fn no_listeners(mut self) -> Self {
        self.listeners.clear();
        self
    }

    /// A Unix listener of this name, at the path of that name in the directory of the test.
    pub(crate) fn listen_unix(self, name: &str) -> Self {
        let path = self.dir.join(name);
        self.listen(name, &format!("unix://{}", path.to_str().expect("temporary directories are UTF-8")))
    }

    /// The runtime has one thread, that of the body.
    pub(crate) fn current_thread(self) -> Self {
        self.env("VICTIM_CURRENT_THREAD", "1")
    }

    /// The body takes `Ready`, and notifies at the end of its initialisation.
    pub(crate) fn takes_ready(self) -> Self {
        self.env("VICTIM_READY", "1")
    }

    /// The body awaits `Shutdown` and then returns.
    pub(crate) fn awaits_shutdown(self) -> Self {
        self.env("VICTIM_AWAIT", "1")
    }

    /// What the process does that is started with this.
    pub(crate) fn plan(self, line: &str) -> Self {
        add_to_plan(self.dir.path(), line);
        self
    }

    /// Starts it.
    pub(crate) fn start(self) -> Service {
        Service::start(self)
    }

    /// Starts it, and waits until the first process serves.
    pub(crate) fn serve(self) -> (Service, Process) {
        let service = self.start();
        let first = service.next_process();
        service.wait_until_it_serves(&first);
        (service, first)
    }
}
