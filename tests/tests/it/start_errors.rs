//! The common errors of a start: each is one line that names the remedy.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::id;

use crate::harness::{Command, Dir, Exit, Root, Signal, Strace, root_or_skip, strace_or_skip};

/// What a service that cannot start says, in its one line.
#[track_caller]
fn problem(command: Command<'_>) -> String {
    let service = command.start();
    assert_eq!(service.first().exit(), Exit::Status(1));
    let log = service.log();
    let said: Vec<_> = log.lines().filter(|line| line.contains("cannot start: ")).collect();
    assert_eq!(said.len(), 1, "{log}");
    said[0].split_once("cannot start: ").unwrap().1.to_owned()
}

#[test]
fn an_address_in_use_is_said_with_the_process_that_has_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    // Whoever listens everywhere is in the way of whoever listens at one address.
    for host in ["127.0.0.1", "0.0.0.0", "[::]"] {
        let (dir, address) = (Dir::new(), format!("tcp://{host}:{port}"));
        let said = problem(dir.victim().no_listeners().listen("echo", &address));
        let expected = format!(
            "listener `echo`: cannot bind {address}: Address already in use (os error 98): process {} (",
            id()
        );
        assert!(said.starts_with(&expected) && said.contains(") has it"), "{said}");
    }
}

#[test]
fn a_path_that_is_served_is_said_with_the_process_that_serves_it() {
    let dir = Dir::new();
    let (_service, old) = dir.victim().listen_unix("sock").serve();
    let other = Dir::new();
    let address = format!("unix://{}", dir.join("sock").display());
    let said = problem(other.victim().listen("sock", &address));
    let expected = format!("another process serves it: process {} (victim) has it", old.pid());
    assert!(said.ends_with(&expected), "{said}");
}

#[test]
fn a_low_port_is_said_with_what_it_takes() {
    let Some(Root) = root_or_skip() else { return };
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first.trim().parse::<u16>().unwrap() < 2 {
        return crate::harness::skip("every port is for everybody here");
    }
    let dir = Dir::new();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let victim = dir.copy_of_victim("victim");
    let command = dir.victim().binary(victim).no_listeners().listen("web", "tcp://127.0.0.1:1");
    let said = problem(command.started_by("setpriv", &["--reuid=65534", "--regid=65534", "--clear-groups"]));
    let expected = "listener `web`: cannot bind tcp://127.0.0.1:1: Permission denied (os error 13): a low port takes root, \
                    AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or ";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn a_directory_that_is_missing_is_named() {
    let dir = Dir::new();
    let missing = dir.join("missing");
    let address = format!("unix://{}/sock", missing.display());
    let hint = format!(
        "No such file or directory (os error 2): the directory {} is missing; RuntimeDirectory= in the unit makes one in \
         /run",
        missing.display(),
    );
    let said = problem(dir.victim().listen("sock", &address));
    assert_eq!(said, format!("listener `sock`: cannot bind {address}: {hint}"));
    let pidfile = missing.join("pid");
    let service = dir.victim().env("TABLEFLIP_PIDFILE", &pidfile).start();
    assert_eq!(service.first().exit(), Exit::Status(1));
    let expected = format!("cannot write the pid file {}: {hint}", pidfile.display());
    assert_eq!(service.log().lines().filter(|line| line.contains(&expected)).count(), 1, "{}", service.log());
}

#[test]
fn a_directory_of_another_user_is_named() {
    let Some(Root) = root_or_skip() else { return };
    // What the victim writes itself is for everybody; where the socket is to be, root alone may write.
    let dir = Dir::new();
    let theirs = dir.join("theirs");
    fs::create_dir(&theirs).unwrap();
    for (directory, mode) in [(dir.path(), 0o777), (&theirs, 0o755)] {
        fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
    }
    let victim = dir.copy_of_victim("victim");
    let command = dir.victim().binary(victim).listen("sock", &format!("unix://{}/sock", theirs.display()));
    let said = problem(command.started_by("setpriv", &["--reuid=65534", "--regid=65534", "--clear-groups"]));
    let hint = format!("user 65534 may not write to {}; it is of user 0", theirs.display());
    assert!(said.ends_with(&hint), "{said}");
}

/// Somebody starts the service a second time.
#[test]
fn the_pid_file_of_a_service_that_runs_is_not_taken() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let said = problem(dir.victim());
    let expected = format!(
        "the pid file {} names process {}, a running {}; upgrade or stop that one, or give this one a pid file of its own",
        dir.join("pid").display(),
        old.pid(),
        env!("CARGO_BIN_EXE_victim"),
    );
    assert_eq!(said, expected);
    assert_eq!((service.pidfile(), service.served_by()), (Some(old.pid()), old.pid()));

    // A number that has become that of something else is no reason not to start, and neither is one of a dead process.
    old.kill();
    assert_eq!(old.exit(), Exit::by(Signal::KILL));
    for stale in [id(), old.pid(), 1] {
        fs::write(dir.join("pid"), stale.to_string()).unwrap();
        let (service, first) = dir.victim().serve();
        assert_eq!(service.pidfile(), Some(first.pid()), "{stale}");
        first.signal(Signal::TERM);
        assert_eq!(first.exit(), Exit::Status(0));
    }
}

/// Two first starts at once: neither finds the pid file of the other at the beginning, and that one is written once it is ready.
#[test]
fn f1b_the_pid_file_of_a_service_that_became_ready_meanwhile_is_not_taken() {
    let (dir, slow_dir) = (Dir::new(), Dir::new());
    let gate = slow_dir.gate("init");
    let slow = slow_dir.victim().env("TABLEFLIP_PIDFILE", dir.join("pid")).plan("init gate init").start();
    let late = slow.next_process();
    slow.wait(&late, "gate");
    let (service, first) = dir.victim().serve();
    gate.open();
    assert_eq!(late.exit(), Exit::Status(1));
    let expected = format!(
        "cannot start: the pid file {} names process {}, a running {}; upgrade or stop that one, or give this one a pid file of \
         its own",
        dir.join("pid").display(),
        first.pid(),
        env!("CARGO_BIN_EXE_victim"),
    );
    assert_eq!(slow.log().lines().filter(|line| line.contains(&expected)).count(), 1, "{}", slow.log());
    assert_eq!((service.pidfile(), service.served_by()), (Some(first.pid()), first.pid()));
    let expected = format!("{}\n", first.pid());
    assert_eq!(fs::read_to_string(dir.join("pid")).unwrap(), expected);
    assert!(!dir.join(format!(".pid.{}", late.pid())).exists(), "nothing is left beside it");
}

/// Of a new release, which the old process says and serves on.
#[test]
fn an_executable_that_is_gone_is_said_with_what_is_missing() {
    let dir = Dir::new();
    let release = dir.copy_of_victim("release-1");
    let current = dir.join("current");
    symlink(&release, &current).unwrap();
    let (service, old) = dir.victim().binary(&current).serve();
    let attempt = |expected: &str| {
        old.signal(Signal::HUP);
        let reason = service.wait_for_failure(&old);
        let expected =
            format!("upgrade failed: cannot run {}: {expected}; this process serves on", current.display());
        assert_eq!(reason.split(" generation=").next().unwrap(), expected);
    };
    fs::remove_file(&release).unwrap();
    let link = format!(
        "No such file or directory (os error 2): it is a link to {}, which does not exist",
        release.display()
    );
    attempt(&link);
    fs::write(&release, "#!/no/such/interpreter\n").unwrap();
    attempt(
        "Permission denied (os error 13): is it a file, executable, and on no file system that is mounted noexec?",
    );
    fs::set_permissions(&release, fs::Permissions::from_mode(0o755)).unwrap();
    attempt(
        "No such file or directory (os error 2): the file is there; the interpreter or the loader that it names is not",
    );
    fs::remove_file(&current).unwrap();
    attempt(
        "No such file or directory (os error 2): the executable is gone; put the release back to where this service was \
         started from",
    );
    dir.copy_of_victim("current");
    service.upgrade(&old);
}

/// Of the same kind as B9: it is no signal that ends the start, and what was bound is removed all the same.
#[test]
fn b9_a_preparation_that_panics_leaves_nothing_and_is_the_reason() {
    let dir = Dir::new();
    let service = dir
        .victim()
        .listen_unix("local")
        .env("TABLEFLIP_CONTROL", "control")
        .plan("prepare panic no-configuration")
        .start();
    assert_eq!(service.first().exit(), Exit::Status(101));
    assert!(service.log().contains("no-configuration"), "{}", service.log());
    assert!(!dir.join("local").exists() && !dir.join("control").exists());

    let (service, old) = dir.victim().serve();
    service.plan("prepare panic no-configuration");
    service.start_upgrade(&old);
    let reason = service.wait_for_failure(&old);
    let expected = "the successor could not start: its preparation panicked: no-configuration";
    assert!(reason.contains(expected), "{reason}");
    assert_eq!(service.served_by(), old.pid());
}

/// A sandbox refuses a system call, as a seccomp filter does.
fn refusing<'a>(command: Command<'a>, call: &str, errno: &str) -> Command<'a> {
    let inject = format!("inject={call}:error={errno}");
    command.started_by("strace", &["-D", "-f", "-qq", "-o", "/dev/null", "-e", &inject])
}

/// Neither a path nor a port is the cause.
#[test]
fn e6_a_call_that_is_refused_is_not_blamed_on_a_directory_or_a_port() {
    let Some(Strace) = strace_or_skip() else { return };
    let refused = "Operation not permitted (os error 1)";
    for (call, address, expected) in [
        ("fchmod", "unix://DIR/sock?mode=600", "cannot set the mode of a socket for"),
        ("chown", "unix://DIR/sock?user=0", "cannot set up"),
        ("bind", "unix://DIR/sock", "cannot bind"),
        ("setsockopt", "tcp://127.0.0.1:1?device=lo", "cannot set the options of a socket for"),
        ("setsockopt", "tcp://127.0.0.1:1", "cannot set the options of a socket for"),
        ("listen", "tcp://127.0.0.1:0", "cannot listen on"),
    ] {
        let dir = Dir::new();
        let address = address.replace("DIR", dir.path().to_str().unwrap());
        let command = dir.victim().no_listeners().listen("sock", &address);
        let said = problem(refusing(command.env("TABLEFLIP_CONTROL", "false"), call, "EPERM"));
        assert_eq!(said, format!("listener `sock`: {expected} {address}: {refused}"), "{call}");
        assert!(!dir.join("sock").exists(), "{call}");
    }
}

/// Root without CAP_DAC_OVERRIDE may write where the mode lets it.
#[test]
fn e6_a_directory_of_the_user_itself_is_said_with_its_mode() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let ours = dir.join("ours");
    fs::create_dir(&ours).unwrap();
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o555)).unwrap();
    let command = dir.victim().listen("sock", &format!("unix://{}/sock", ours.display()));
    let said = problem(command.started_by("setpriv", &["--bounding-set=-dac_override"]));
    let hint = format!("user 0 may not write to {}; it is of user 0, with mode 555", ours.display());
    assert!(said.ends_with(&hint), "{said}");
}

#[test]
fn e6_pidfds_that_are_refused_are_said_at_the_start() {
    let Some(Strace) = strace_or_skip() else { return };
    for (call, errno, text) in [
        ("pidfd_open", "EPERM", "Operation not permitted (os error 1)"),
        ("pidfd_open", "ENOSYS", "Function not implemented (os error 38)"),
        ("pidfd_send_signal", "EPERM", "Operation not permitted (os error 1)"),
    ] {
        let dir = Dir::new();
        let (service, old) = refusing(dir.victim(), call, errno).serve();
        let said = format!(
            "an upgrade that fails may leave processes behind, which this process cannot watch or end: {call}(2): {text}; a \
             seccomp filter may refuse it: SystemCallFilter= of the unit, or the profile of the container"
        );
        dir.wait_until("the warning", || service.log().contains(&said).then_some(()));
        service.upgrade(&old);
        drop(service);
        // The preflight command is watched by one.
        let dir = Dir::new();
        let (service, old) = refusing(dir.victim().env("TABLEFLIP_PREFLIGHT", "true"), call, errno).serve();
        old.signal(Signal::HUP);
        if call == "pidfd_open" {
            let reason = service.wait_for_failure(&old);
            let expected = format!("the preflight command could not be started: {call}(2): {text}");
            assert!(reason.contains(&expected), "{reason}");
        } else {
            service.next_process();
        }
    }
}

/// The executable is not the cause, which a look at it would not find.
#[test]
fn b5_a_clone_that_is_refused_is_named() {
    let Some(Strace) = strace_or_skip() else { return };
    for (call, errno, expected) in [
        ("clone", "EPERM", "clone(2): Operation not permitted (os error 1); a seccomp filter may refuse it"),
        ("clone", "ENOMEM", "clone(2): Cannot allocate memory (os error 12);"),
        ("clone", "EAGAIN", "Resource temporarily unavailable (os error 11): the limit of threads is"),
        ("dup2", "EPERM", "dup2(2): Operation not permitted (os error 1); a seccomp filter may refuse it"),
    ] {
        let dir = Dir::new();
        let (service, old) = refusing(dir.victim(), call, errno).serve();
        old.signal(Signal::HUP);
        let reason = service.wait_for_failure(&old);
        let expected = format!("cannot start a process for {}: {expected}", env!("CARGO_BIN_EXE_victim"));
        assert!(reason.contains(&expected), "{reason}");
        service.assert_serves(&old);
    }
}

#[test]
fn b5_what_a_start_cannot_look_at_is_named() {
    let Some(Root) = root_or_skip() else { return };
    let start = |script: &str| {
        let dir = Dir::new();
        let script = format!("{script} && exec \"$0\" \"$@\"");
        problem(dir.victim().started_by("unshare", &["--mount", "sh", "-c", &script]))
    };
    let missing = "No such file or directory (os error 2)";
    let begin = "cannot find out how this process was started: ";
    let proc = format!("{begin}/proc/self/exe: {missing}; /proc is not mounted, proc(5)");
    assert_eq!(start("umount -l /proc"), proc);
    let gone = format!("{begin}the working directory: {missing}");
    assert_eq!(start("mkdir gone && cd gone && rmdir ../gone"), gone);
}

/// `systemfd --no-pid` passes a socket so, for the programs that it starts one after the other.
#[test]
fn b5_a_socket_that_is_passed_without_a_process_is_used() {
    let dir = Dir::new();
    let at = dir.join("at");
    let with = env!("CARGO_BIN_EXE_with_channel");
    let command = dir.victim().no_listeners().listen("echo", "tcp://127.0.0.1:0");
    let (service, process) = command.started_by(with, &["passed", at.to_str().unwrap()]).serve();
    let passed = fs::read_to_string(at).unwrap();
    assert_eq!(service.address("echo"), passed);
    assert!(!service.log().contains("are not used"), "{}", service.log());
    let new = service.upgrade(&process);
    assert_eq!((service.address("echo"), service.served_by()), (passed, new.pid()));
}

/// A manager has passed them to a wrapper that did not `exec` the service.
#[test]
fn b5_sockets_that_were_passed_to_another_process_are_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", taken.local_addr().unwrap());
    for (whose, said_of_it) in
        [(Some("1"), "LISTEN_PID=1"), (Some("a\nb"), "LISTEN_PID=a b"), (None, "LISTEN_PID is not set")]
    {
        let with = |dir: &Dir, address: &str| {
            let command = dir.victim().no_listeners().listen("echo", address).env("LISTEN_FDS", "1");
            match whose {
                Some(pid) => command.env("LISTEN_PID", pid).start(),
                None => command.start(),
            }
        };
        let dir = Dir::new();
        let service = with(&dir, &address);
        assert_eq!(service.first().exit(), Exit::Status(1));
        let expected = |pid: u32| {
            format!(
                "the sockets that the service manager has passed are not used: LISTEN_FDS=1 is not for process {pid}: \
                 {said_of_it}; a script that starts the service does it by `exec`"
            )
        };
        let in_use = format!(") has it; {}", expected(service.first().pid()));
        assert!(service.log().contains(&in_use), "{}", service.log());
        // Where none of them is in the way it is a warning.
        let dir = Dir::new();
        let service = with(&dir, "tcp://127.0.0.1:0");
        service.wait_until_it_serves(service.first());
        let expected = expected(service.first().pid());
        dir.wait_until("the warning", || service.log().contains(&expected).then_some(()));
    }
}
