//! The service that is upgraded: a release in a directory of its own, as a deploy would leave it.

use std::{
    env,
    ffi::OsString,
    fs::{self, DirBuilder, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::Duration,
};

use processes::{Process, Signal, pidfile, proc};

use super::args::Args;
use crate::{Make, Prepare, Setting};

/// What systemd tells the program that it starts is not meant for the service in here.
const NOT_OURS: [&str; 8] = [
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "MAINPID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// How long a bad release may take to become ready.
const BAD_RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// The running service. Dropping it ends every process of it and what is in front of it, and removes its directory.
#[derive(Debug)]
pub(crate) struct Service {
    /// Its program is called so in its directory.
    name: &'static str,
    release: PathBuf,
    /// The release that the next upgrade deploys.
    next: PathBuf,
    setting: Setting,
    scratch: Scratch,
    log: PathBuf,
    address: SocketAddr,
}

impl Service {
    /// Copies `release` into a directory of its own and starts it there, on a free port. The process is the first
    /// generation, which need not be ready yet.
    pub(crate) fn start(
        args: &Args,
        release: PathBuf,
        bad: Option<PathBuf>,
        prepare: Option<Prepare>,
    ) -> io::Result<(Self, Process)> {
        let name = args.service.package;
        let scratch = Scratch::new()?;
        let log = args.log.clone().unwrap_or_else(|| scratch.path.join(name).with_extension("log"));
        let address = free_address()?;
        let setting = match prepare.filter(|_| args.service.is_foreign) {
            Some(prepare) => prepare(args.service.name, &scratch.path, address)?,
            None => Setting::default().listen("http", format!("tcp://{address}")),
        };
        let next = bad.unwrap_or_else(|| release.clone());
        let service = Self { name, release, next, setting, scratch, log, address };
        service.install(&service.release)?;

        let output = File::create(&service.log)
            .map_err(|error| explain(error, &format!("cannot write the log {}", service.log.display())))?;
        let mut command = Command::new(service.executable());
        for name in NOT_OURS {
            command.env_remove(name);
        }
        command
            .current_dir(&service.scratch.path)
            .envs(service.setting.variables.iter().cloned())
            .env("TABLEFLIP_PIDFILE", service.pid_file())
            .env("TABLEFLIP_PROBATION", humantime::format_duration(args.probation).to_string())
            .envs(args.checks())
            .envs(args.bad_release.iter().flat_map(|release| {
                let limit = humantime::format_duration(BAD_RELEASE_TIMEOUT).to_string();
                [("BAD_RELEASE", release.name.to_owned()), ("TABLEFLIP_UPGRADE_TIMEOUT", limit)]
            }))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            // Ctrl-C in a terminal is for the demo, which ends the service when it has ended the load.
            .process_group(0);
        let child = command.spawn().map_err(|error| {
            let place = service.scratch.path.display();
            explain(
                error,
                &format!("cannot start the service in {place} (set TMPDIR if it is mounted noexec)"),
            )
        })?;
        // Its number is its own until it is reaped, which only this value does.
        let first = Process::open(child.id())?;
        Ok((service, first))
    }

    /// Replaces the file of the release that runs, as a deploy does: a new file under the old name.
    pub(crate) fn deploy(&self) -> io::Result<()> {
        self.install(&self.next)
    }

    fn install(&self, release: &Path) -> io::Result<()> {
        let new = self.executable().with_extension("new");
        fs::copy(release, &new)
            .and_then(|_| fs::rename(&new, self.executable()))
            .map_err(|error| explain(error, &format!("cannot deploy {}", release.display())))
    }

    /// The control socket, at its place beside the pid file.
    pub(crate) fn control(&self) -> PathBuf {
        self.executable().with_extension("control")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the clients of another protocol than the demo's own are made.
    pub(crate) fn foreign(&self) -> Option<Make> {
        self.setting.client.clone()
    }

    pub(crate) fn is_behind_a_proxy(&self) -> bool {
        self.setting.proxy.is_some()
    }

    /// The process that the pid file names.
    pub(crate) fn main_process(&self) -> io::Result<Process> {
        let pid = pidfile(&self.pid_file())?;
        Process::open(pid)
            .map_err(|error| explain(error, &format!("the pid file names {pid}, which does not run")))
    }

    /// Whether a pid file is there.
    pub(crate) fn has_pid_file(&self) -> bool {
        self.pid_file().exists()
    }

    /// Every process of the service that has not ended. They are known by their executable, which no other
    /// process runs. So a successor that has not answered yet is found too.
    pub(crate) fn processes(&self) -> Vec<Process> {
        proc::all()
            .filter_map(|pid| {
                // First the pidfd: what is looked at after it is the process of the pidfd.
                let process = Process::open(pid).ok()?;
                let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
                executable.starts_with(&self.scratch.path).then_some(process)
            })
            .collect()
    }

    /// The last lines that the service has logged.
    pub(crate) fn log_tail(&self) -> Vec<String> {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].iter().map(|line| (*line).to_owned()).collect()
    }

    fn executable(&self) -> PathBuf {
        self.scratch.path.join(self.name)
    }

    fn pid_file(&self) -> PathBuf {
        self.executable().with_extension("pid")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // After a run that went well there is none. One that is killed here may just have started a successor,
        // hence the second and the third look.
        for _ in 0..3 {
            for process in self.processes() {
                let killed = process.signal(Signal::KILL);
                if let Err(error) = killed.and_then(|()| process.exit_within(Duration::from_secs(2))) {
                    eprintln!("cannot end process {}: {error}", process.pid());
                }
            }
        }
    }
}

/// A directory that only this user may enter, and that is removed when it is dropped.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> io::Result<Self> {
        let mut name = OsString::from("tableflip-demo-");
        name.push(process::id().to_string());
        let path = env::temp_dir().join(name);
        // A directory that exists already is left alone: it belongs to another user, or is left from a crash.
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| explain(error, &format!("cannot create the directory {}", path.display())))?;
        // As /proc/PID/exe will show it.
        let path = path.canonicalize()?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// An address on loopback that was free a moment ago. With port 0 the service would get a free port as well, but the demo would not
/// know which.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn explain(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
