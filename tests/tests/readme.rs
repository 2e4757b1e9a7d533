//! The service of the README compiles with the dependencies that the README names, and runs as an ordinary user.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use processes::{DEADLINE, Process, Signal, find, pidfile, wait_until};
use tests::package;

/// The user `nobody`.
const USER: u32 = 65534;

/// An address of this machine that no other test has; the README has port 7000 of 127.0.0.1.
const ADDRESS: &str = "127.7.0.1:7000";

/// The text between the fences of the first block of this language.
fn block<'a>(text: &'a str, language: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n```{language}\n")).expect("a block");
    rest.split_once("\n```\n").expect("its end").0
}

/// The lines of Cargo.toml for `cargo add NAME --features A,B`. `tableflip` is that of the workspace.
fn dependencies(commands: &str) -> String {
    let dependency = |command: &str| {
        let mut words = command.strip_prefix("cargo add ").expect("it adds a crate").split(' ');
        let name = words.next().expect("the name of a crate");
        let features = match words.next() {
            Some("--features") => words.next().expect("features").replace(',', "\", \""),
            None => return format!("{name} = {{ path = {:?} }}\n", package::workspace().join("runtime")),
            Some(other) => panic!("{other}"),
        };
        format!("{name} = {{ version = \"1\", features = [\"{features}\"] }}\n")
    };
    commands.lines().map(dependency).collect()
}

/// Kills the process unless it ends before.
struct Killed(Process);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.signal_if_alive(Signal::KILL).expect("it can be signalled");
    }
}

fn echoes() -> bool {
    let Ok(mut client) = TcpStream::connect(ADDRESS) else { return false };
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    client.write_all(b"hello").expect("it is taken");
    let mut answer = [0; 5];
    client.read_exact(&mut answer).expect("the echo");
    answer == *b"hello"
}

#[test]
fn the_service_of_the_readme_runs_as_an_ordinary_user() {
    if !processes::is_slow_wanted() {
        return processes::skip("SLOW_TESTS=1 compiles the service of the README as a package of its own");
    }
    let readme = fs::read_to_string(package::workspace().join("README.md")).expect("the README");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("source");
    fs::create_dir(&source).expect("it can be made");
    package::write(&source, "echo", &dependencies(block(&readme, "sh")), block(&readme, "rust"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme");
    assert!(package::cargo(&source, "build", &target).status().expect("cargo runs").success(), "it compiles");

    let home = dir.path().join("home");
    fs::create_dir(&home).expect("it can be made");
    fs::copy(target.join("debug/echo"), home.join("echo")).expect("it can be copied");
    let is_root = fs::metadata("/proc/self").expect("proc(5)").uid() == 0;
    let mut command = match is_root {
        true => Command::new("setpriv"),
        false => Command::new("env"),
    };
    if is_root {
        chown(&home, Some(USER), Some(USER)).expect("root may");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), mode).expect("root may");
        command.args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()]);
    }
    command.arg(home.join("echo")).current_dir(&home).env("TABLEFLIP_LISTEN_ECHO", ADDRESS);
    let mut child = command.spawn().expect("it runs");
    let first = Killed(Process::open(child.id()).expect("a process"));
    wait_until("the service answers", echoes);
    let path = home.join("echo.pid");
    assert_eq!(pidfile(&path).expect("a pid file"), child.id());

    // `kill -HUP $(cat echo.pid)`
    first.0.signal(Signal::HUP).expect("it can be signalled");
    let pid = find("a successor", || pidfile(&path).ok().filter(|pid| *pid != child.id()));
    let second = Killed(Process::open(pid).expect("a process"));
    assert!(echoes());
    assert!(child.wait().expect("it is a child").success());
    assert!(echoes());
    second.0.signal(Signal::TERM).expect("it can be signalled");
    assert!(second.0.is_dead_within(DEADLINE).expect("a pidfd"));
    assert!(!path.exists(), "the last process removes the pid file");
}
