//! The command that checks a new release before the release gets a socket.

use std::fs;
use std::path::Path;

use processes::proc::{Stat, exists};

use crate::harness::{Command, Dir, Exit, Signal, names_in, wait_until};

fn checked_by<'d>(dir: &'d Dir, command: &str) -> Command<'d> {
    dir.victim().env("TABLEFLIP_PREFLIGHT", command)
}

#[test]
fn a_release_that_fails_it_is_not_started() {
    let dir = Dir::new();
    let command = r#"test -e "$VICTIM_DIR/good" || { echo "config:"; echo "line 3" >&2; exit 3; }"#;
    let (service, old) = checked_by(&dir, command).serve();
    old.signal(Signal::HUP);
    let reason = service.wait_for_failure(&old);
    let expected =
        "upgrade failed: the preflight command exited with status 3: config: line 3; this process serves on";
    assert_eq!(reason, expected);
    assert_eq!(service.processes().len(), 1, "nothing was started");
    assert_eq!(service.pidfile(), Some(old.pid()));
    assert_eq!(service.connect().who(), (1, old.pid()));

    // The next one is checked afresh.
    fs::write(dir.join("good"), "").unwrap();
    let new = service.upgrade(&old);
    assert_eq!(service.connect().who(), (2, new.pid()));
}

/// Where SIGCHLD is ignored the kernel keeps no status, and may have reaped it before anybody can watch it.
#[test]
fn one_whose_status_nobody_knows_has_not_passed() {
    let dir = Dir::new();
    let (service, old) = checked_by(&dir, ":").started_by("env", &["--ignore-signal=CHLD"]).serve();
    for _ in 0..3 {
        old.signal(Signal::HUP);
        let reason = service.wait_for_failure(&old);
        let expected = "its status was taken by another wait in this process; this process serves on";
        assert!(reason.ends_with(expected), "{reason}");
    }
    assert_eq!(service.processes().len(), 1, "nothing was started");
    assert_eq!(service.connect().who(), (1, old.pid()));
}

/// `"$0"`, `"$@"`, the working directory, the descriptors and the environment of the command.
#[test]
fn it_has_what_it_needs_and_nothing_else() {
    let dir = Dir::new();
    let command = r#"
        cd "$VICTIM_DIR" || exit 1
        printf '%s\n' "$0" "$@" >arguments
        readlink /proc/$$/cwd >directory
        ls -l /proc/$$/fd >descriptors
        env >environment
        read -r line && exit 1
        ps -o pid=,pgid= $$ >group
    "#;
    let started = checked_by(&dir, command).arg("--config").arg("a b").env("LISTEN_FDS", "0");
    let (service, old) = started.started_by("env", &["-C", dir.path().to_str().unwrap()]).serve();
    let directory = fs::read_link(old.proc("cwd")).unwrap();
    let new = service.upgrade(&old);
    let wrote = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let executable = fs::read_link(new.proc("exe")).unwrap();
    assert_eq!(wrote("arguments"), format!("{}\n--config\na b\n", executable.display()));
    // It was in the first working directory before it went to another.
    assert_eq!(Path::new(wrote("directory").trim_end()), dir.path());
    assert_eq!(directory, dir.path());
    let descriptors = wrote("descriptors");
    assert!(descriptors.contains("0 -> /dev/null"), "{descriptors}");
    assert!(!descriptors.contains("socket:") && !descriptors.contains("anon_inode"), "{descriptors}");
    let environment = wrote("environment");
    assert!(environment.contains("TABLEFLIP_PROBATION="), "{environment}");
    assert!(!environment.contains("LISTEN_") && !environment.contains("HANDOVER"), "{environment}");
    let group = wrote("group");
    let group: Vec<_> = group.split_whitespace().collect();
    assert_eq!(group[0], group[1], "it leads a group of its own");
}

#[test]
fn meanwhile_the_process_serves_and_refuses_another() {
    let dir = Dir::new();
    let gate = dir.gate("check");
    let (service, old) = checked_by(&dir, r#"head -c 1 "$VICTIM_DIR/gate-check""#).serve();
    let mut client = service.open(&old);
    client.send("upgrade");
    service.wait(&old, "checking");
    assert_eq!(service.connect().who(), (1, old.pid()));
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused: an upgrade is in progress");
    gate.open();
    let new = service.next_process();
    assert_eq!(client.receive().unwrap(), format!("ok 2 {}", new.pid()));
}

/// A command that starts another one and waits for it. Both write down who they are.
const ENDLESS: &str = r#"
    echo half way
    sleep 1000 & echo $$ $! >"$VICTIM_DIR/pids.new" && mv "$VICTIM_DIR/pids.new" "$VICTIM_DIR/pids"
    wait
"#;

fn pids(dir: &Dir) -> Vec<String> {
    let text = dir.wait_until("command", || fs::read_to_string(dir.join("pids")).ok());
    text.split_whitespace().map(str::to_owned).collect()
}

/// A process that is gone, or a zombie.
fn is_dead(pid: &str) -> bool {
    Stat::of(pid).is_none_or(|stat| stat.is_zombie())
}

#[test]
fn one_that_takes_too_long_is_killed_with_all_that_it_started() {
    let dir = Dir::new();
    let (service, old) = checked_by(&dir, ENDLESS).upgrade_timeout("5s").serve();
    old.signal(Signal::HUP);
    let command = pids(&dir);
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("the preflight command did not end within 5s: half way; this"), "{reason}");
    wait_until("death", || command.iter().all(|pid| is_dead(pid)));
    wait_until("reaping", || !exists(&command[0]));
    assert_eq!(service.connect().who(), (1, old.pid()));
}

#[test]
fn a_stop_ends_it() {
    let dir = Dir::new();
    let (service, old) = checked_by(&dir, ENDLESS).serve();
    let mut client = service.open(&old);
    client.send("upgrade");
    let command = pids(&dir);
    old.signal(Signal::TERM);
    let answer = client.receive().unwrap();
    assert!(answer.starts_with("err") && answer.ends_with(": the service was told to stop"), "{answer}");
    drop(client);
    assert_eq!(old.exit(), Exit::Status(0));
    wait_until("death", || command.iter().all(|pid| is_dead(pid)));
    assert_eq!(names_in(dir.path()).iter().filter(|name| name.starts_with("pid.")).count(), 0);
}

#[test]
fn how_it_ended_is_said() {
    for (command, expected) in [
        ("kill -KILL $$", "the preflight command was killed by SIGKILL;"),
        ("exec /nowhere", "the preflight command exited with status 127: "),
        // More than is kept of it, and more than a pipe holds.
        ("head -c 300000 /dev/zero | tr '\\0' x; printf end; exit 1", "xxxend;"),
    ] {
        let dir = Dir::new();
        let (service, old) = checked_by(&dir, command).serve();
        old.signal(Signal::HUP);
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains(expected), "{command}: {reason}");
        assert!(reason.len() < 5000, "{command}: {} bytes", reason.len());
    }
}

/// A rescue starts what has served before.
#[test]
fn a_rescue_is_not_checked() {
    let dir = Dir::new();
    let (service, old) = checked_by(&dir, r#"test ! -e "$VICTIM_DIR/bad""#).serve();
    let before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    fs::write(dir.join("bad"), "").unwrap();
    new.kill();
    let rescue = service.next_process();
    service.wait_until_it_serves(&rescue);
    assert_eq!(service.served_by(), rescue.pid());
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
}

/// B1. What it checks is how the successor will be started.
#[test]
fn b1_it_has_the_environment_and_the_umask_of_the_first_start() {
    let dir = Dir::new();
    let command = checked_by(&dir, r#"echo "$(umask) $PLAIN $SET_BY_THE_SERVICE" >"$VICTIM_DIR/checked""#);
    let plan = "main setenv PLAIN no; main setenv SET_BY_THE_SERVICE yes; init umask 0077";
    let (service, old) = command.env("PLAIN", "plain").plan(plan).serve();
    let new = service.upgrade(&old);
    assert_eq!(fs::read_to_string(dir.join("checked")).unwrap(), "0022 plain \n");
    assert_eq!(service.served_by(), new.pid());
}
