//! A service in a directory of its own, which the test controls by its control socket.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use processes::{Signal, find, pidfile, signal_group, wait_until};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};
use serde_json::Value;
use tempfile::TempDir;

use crate::{DEADLINE, upgrades};

/// How long a process may take to end that has nothing open: a tenth of the `drain_timeout` that a service has by default, of 30 s.
const AT_ONCE: Duration = Duration::from_secs(3);
/// A machine that has much else to do may hold a process up for as long, but not each of so many.
const TRIES: u32 = 3;
/// And not the one process that is stopped for so long.
const STOP: Duration = Duration::from_secs(10);

/// How a service is to be started.
#[derive(Debug)]
pub struct Command {
    dir: TempDir,
    program: PathBuf,
    args: Vec<OsString>,
    env: HashMap<OsString, OsString>,
    guards: u64,
    grace: Duration,
}

/// A service that runs, in all its generations.
#[derive(Debug)]
pub struct Service {
    dir: TempDir,
    program: PathBuf,
    first: Child,
    guards: u64,
    grace: Duration,
}

impl Service {
    /// A service of this program.
    pub fn of(program: &str) -> Command {
        processes::default_for_children();
        let dir = tempfile::Builder::new().prefix("tableflip-").tempdir().expect("a temporary directory");
        let env = HashMap::from([("PATH".into(), std::env::var_os("PATH").unwrap_or_default())]);
        let command =
            Command { dir, program: program.into(), args: Vec::new(), env, guards: 0, grace: Duration::ZERO };
        let (pidfile, control) = (command.path("pid"), command.path("control"));
        command
            .env("TABLEFLIP_PIDFILE", pidfile)
            .env("TABLEFLIP_CONTROL", control)
            .env("TABLEFLIP_PROBATION", "200ms")
    }

    /// A file of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The name of its program.
    pub fn name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The process that serves.
    pub fn pid(&self) -> u32 {
        pidfile(&self.path("pid")).expect("it serves")
    }

    /// What its processes wrote to stdout and stderr.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.path("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The address that a TCP or UDP listener is bound to.
    pub fn address(&self, name: &str) -> SocketAddr {
        let listener = self.listener(name);
        let address = listener["address"].as_str().and_then(|address| address.split_once("://"));
        let (_, address) = address.unwrap_or_else(|| panic!("there is no scheme in {listener}"));
        address.parse().expect("an IP address and a port")
    }

    /// How many connections or datagrams of a listener the process that serves has taken.
    pub fn taken(&self, name: &str) -> u64 {
        let listener = self.listener(name);
        listener["taken"].as_u64().unwrap_or_else(|| panic!("it does not count: {listener}"))
    }

    fn listener(&self, name: &str) -> Value {
        let status = self.status();
        let listeners = status["listeners"].as_array().expect("a list");
        let listener = listeners.iter().find(|listener| listener["name"] == name);
        listener.unwrap_or_else(|| panic!("there is no listener `{name}` in {status}")).clone()
    }

    /// What the process that serves says of itself; `docs/control.md`.
    pub fn status(&self) -> Value {
        Control::connect(&self.path("control")).ask("status")
    }

    /// Replaces it, and waits until the old process has exited. Gives the process ID of the new one.
    pub fn upgrade(&mut self) -> u32 {
        let (mut control, pid) = self.begin_upgrade();
        control.wait_for_the_end();
        pid
    }

    /// Replaces it [`upgrades`] times.
    pub fn upgrade_all(&mut self) {
        for _ in 0..upgrades() {
            self.upgrade();
        }
    }

    /// Replaces it, and returns when the new process has passed its probation. The old one may still drain; it has
    /// exited when [`Control::wait_for_the_end`] returns.
    pub fn begin_upgrade(&mut self) -> (Control, u32) {
        find("upgrade", || {
            let mut control = Control::connect(&self.path("control"));
            let answer = control.ask("upgrade");
            match answer["code"].as_str() {
                None => {
                    let pid = answer["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
                    Some((control, pid.expect("the process ID of the successor")))
                }
                // It has yet to notice that its predecessor is gone.
                Some("predecessor-draining") => None,
                Some(_) => panic!("no upgrade: {answer}\n{}", self.log()),
            }
        })
    }

    /// Has an upgrade fail, and says why it did.
    pub fn refused_upgrade(&self) -> String {
        let answer = Control::connect(&self.path("control")).ask("upgrade");
        answer["message"].as_str().unwrap_or_else(|| panic!("it did not fail: {answer}")).to_owned()
    }

    /// Waits until the process that serves has as many connections open, and says how many they are.
    pub fn wait_for_connections(&self, at_least: u64) -> u64 {
        let mut open = 0;
        wait_until("its connections are open", || {
            open = self.status()["open"].as_u64().expect("it counts them");
            open >= at_least
        });
        open
    }

    /// Waits until nothing is open, replaces it and stops it, and panics if the old process or the stopped one does not end at
    /// once. None of its processes may have aborted what it had open.
    pub fn stop(&mut self) {
        let mut open = 0;
        wait_until("nothing is open", || {
            open = self.status()["open"].as_u64().expect("it counts them");
            open <= self.guards
        });
        let limit = AT_ONCE + self.grace;
        let mut upgrade = Duration::MAX;
        for _ in 0..TRIES {
            let (mut control, _new) = self.begin_upgrade();
            let probation_over = Instant::now();
            control.wait_for_the_end();
            upgrade = upgrade.min(probation_over.elapsed());
            if upgrade < limit {
                break;
            }
        }
        assert!(
            upgrade < limit,
            "{}: {upgrade:?} after its probation with nothing open\n{}",
            self.name(),
            self.log()
        );
        let stop = self.stop_with_what_is_open();
        println!(
            "{}: with nothing open it ends {upgrade:.0?} after its probation, and {stop:.0?} after a stop",
            self.name()
        );
        assert!(
            stop < STOP + self.grace,
            "{}: {stop:?} for a stop with nothing open\n{}",
            self.name(),
            self.log()
        );
    }

    /// Stops it, and waits until it has exited. None of its processes may have aborted what it had open. Says how long it took.
    pub fn stop_with_what_is_open(&mut self) -> Duration {
        let mut control = Control::connect(&self.path("control"));
        let answer = control.ask("stop");
        let asked = Instant::now();
        assert_eq!(answer["reply"], "stopping", "{answer}");
        control.wait_for_the_end();
        let elapsed = asked.elapsed();
        wait_until("the first process has ended", || self.ended().is_some());
        let status = self.ended().and_then(|ended| ended.exit_status());
        assert_eq!(status, Some(0), "of the first process\n{}", self.log());
        let log = self.log();
        assert!(!log.contains("not drained within"), "{}:\n{log}", self.name());
        elapsed
    }

    /// How the first process has ended, which is not reaped by that: its number stays that of the group.
    fn ended(&self) -> Option<WaitIdStatus> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&self.first)), options).expect("it is a child")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // All generations are in the group of the first process, whose number is no one else's before it is reaped.
        signal_group(self.first.id(), Signal::KILL).unwrap_or_default();
        self.first.wait().map(drop).unwrap_or_default();
    }
}

impl Command {
    /// A file of the service.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The address of a listener that the program declares.
    pub fn listen(self, name: &str, address: &str) -> Self {
        self.env(format!("TABLEFLIP_LISTEN_{}", name.to_uppercase()), address)
    }

    /// A variable of its environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Its arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// How long open connections may take.
    pub fn drain_timeout(self, duration: &str) -> Self {
        self.env("TABLEFLIP_DRAIN_TIMEOUT", duration)
    }

    /// How many guards it holds for as long as it serves: with as many, nothing is open.
    pub fn guards(mut self, guards: u64) -> Self {
        self.guards = guards;
        self
    }

    /// How long it takes to end of its own accord, with nothing open.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Starts it in its directory, and waits until it serves.
    pub fn start(self) -> Service {
        let log = File::create(self.path("log")).expect("a log");
        let child = std::process::Command::new(&self.program)
            .args(&self.args)
            .current_dir(self.dir.path())
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.program));
        let service = Service {
            dir: self.dir,
            program: self.program,
            first: child,
            guards: self.guards,
            grace: self.grace,
        };
        let pidfile = service.path("pid");
        wait_until("the service serves", || {
            let ended = service.ended();
            assert!(ended.is_none(), "{}: {ended:?}\n{}", service.name(), service.log());
            pidfile.exists()
        });
        service
    }
}

/// A conversation with one process.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline that is not zero");
        Self { stream: BufReader::new(stream) }
    }

    /// The answer to a command, past the phases before it, and past what the drain of a predecessor has cut.
    fn ask(&mut self, command: &str) -> Value {
        writeln!(self.stream.get_mut(), r#"{{"command":"{command}"}}"#).expect("the process listens");
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("an answer in time");
            let reply: Value = serde_json::from_str(&line).expect("a line of JSON");
            if !["phase", "drained"].contains(&reply["reply"].as_str().unwrap_or_default()) {
                return reply;
            }
        }
    }

    /// Waits until the process has exited, past the phases that it tells before.
    pub fn wait_for_the_end(&mut self) {
        loop {
            match self.stream.read_line(&mut String::new()) {
                Ok(0) => return,
                Ok(_) => {}
                // It ends by a reset where the process had not read all that it was sent.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the process has not exited in time: {error}"),
            }
        }
    }
}

/// A certificate for `localhost`, signed by itself, and its key; made by openssl(1).
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Of both, in PEM.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes a new one at `PATH.pem` and `PATH.key`.
    pub fn make(path: &Path) -> io::Result<Self> {
        let made = Self { certificate: path.with_extension("pem"), key: path.with_extension("key") };
        let output = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args([OsStr::new("-keyout"), made.key.as_ref(), OsStr::new("-out"), made.certificate.as_ref()])
            .output()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("cannot start openssl: {error}; is it installed?"))
            })?;
        if !output.status.success() {
            return Err(io::Error::other(format!("openssl: {}", String::from_utf8_lossy(&output.stderr))));
        }
        Ok(made)
    }
}
