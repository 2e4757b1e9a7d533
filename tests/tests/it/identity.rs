//! The program at the path of the executable need not be the service that runs: an upgrade to another program is refused. A message
//! names what a release gives up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::harness::{Dir, Exit, Process, Service, Signal};
use crate::program::{controlled, run};

/// The old one serves on at its listener `echo`.
#[track_caller]
fn serves_on(service: &Service, old: &Process) {
    service.assert_serves(old);
}

/// A release that declares none of the listeners takes the service off the air.
#[test]
fn d2_a_successor_that_adopts_none_of_the_listeners_is_refused() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let mut before = service.connect();
    let others = [
        "listen without echo; listen with other tcp://127.0.0.1:0".to_owned(),
        format!("listen without echo; listen with echo unix://{}", dir.join("moved").display()),
        // It binds nothing at all.
        "listen without echo".to_owned(),
        // A name on one side alone is no proof.
        "listen name a; listen without echo".to_owned(),
    ];
    for other in &others {
        service.plan(other);
        let ran = run(&dir, "upgrade pid");
        let new = service.next_process();
        let refused = "the successor was refused: it adopts none of the listeners that this service declares, `echo` \
                       (tcp://127.0.0.1:0), and is taken for another service";
        ran.failed(1, refused);
        ran.failed(1, "give this release and the next the same `name`");
        assert!(new.is_gone(), "{other}");
        serves_on(&service, &old);
        assert!(!dir.join("moved").exists());
    }
    assert_eq!(before.who(), (1, old.pid()));
    service.upgrade(&old);
}

/// The same where the body binds at run time, and where a Unix path stays behind for those who look for it.
#[test]
fn d2_what_the_predecessor_has_beside_its_listeners_does_not_count() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    service.plan("listen name b; listen without echo");
    let ran = run(&dir, "upgrade pid");
    // It has adopted the control socket, at the same path.
    ran.failed(1, "adopts none of the listeners");
    assert!(service.next_process().is_gone());
    serves_on(&service, &old);

    // A service that declares nothing loses nothing that was promised.
    let dir = Dir::new();
    let (service, old) = dir.victim().no_listeners().takes_ready().serve();
    service.upgrade(&old);
}

#[test]
fn d2_a_successor_of_another_name_is_refused_though_it_adopts_the_listeners() {
    let dir = Dir::new();
    let (service, old) = dir.victim().env("TABLEFLIP_CONTROL", "pid.control").plan("listen name a").serve();
    service.plan("listen name b");
    let ran = run(&dir, "upgrade pid");
    let new = service.next_process();
    ran.failed(
        1,
        "the successor was refused: it is the service `b`, and this is `a`; put the executable of `a` back",
    );
    assert!(new.is_gone());
    serves_on(&service, &old);
    // To a release that does not say, and back.
    let second = service.upgrade(&old);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&second, "alone");
    service.plan("listen name b");
    let third = service.upgrade(&second);
    assert!(!service.has_said(&third, "error"));
}

/// A deploy that moves every listener, on purpose: the same name on both sides is what says so.
#[test]
fn d2_a_release_of_the_same_name_may_move_every_listener_and_says_so() {
    let dir = Dir::new();
    let (service, old) = dir.victim().env("TABLEFLIP_CONTROL", "pid.control").plan("listen name a").serve();
    service.plan(&format!(
        "listen name a; listen without echo; listen with echo unix://{}",
        dir.join("echo").display()
    ));
    let ran = run(&dir, "upgrade --json pid");
    let new = service.next_process();
    let closed = "listener `echo` (tcp://127.0.0.1:0) is no longer declared and is closed";
    let last = ran.done().lines().last().unwrap().to_owned();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["reply"], &last["warnings"]), (&"upgraded".into(), &serde_json::json!([closed])));
    assert!(ran.err.contains(&format!("tableflip: warning: {closed}\n")), "{}", ran.err);
    service.wait_for(&old, "error", closed);
    service.wait_for(&new, "error", closed);
    assert_eq!(service.connect_unix("echo").who(), (2, new.pid()));
}

#[test]
fn d2_a_listener_and_a_pid_file_that_are_given_up_are_said() {
    let dir = Dir::new();
    let pidfile = |name: &str| format!("listen pidfile {}", dir.join(name).display());
    let victim = dir.victim().listen_unix("admin").without_env("TABLEFLIP_PIDFILE");
    let (service, first) = victim.plan(&pidfile("first")).serve();
    service.plan(&format!("{}; listen without admin", pidfile("second")));
    let second = service.upgrade(&first);
    let moved = format!(
        "the pid file {} is removed; it is {} now",
        dir.join("first").display(),
        dir.join("second").display()
    );
    let closed = format!(
        "listener `admin` (unix://{}) is no longer declared and is closed",
        dir.join("admin").display()
    );
    for process in [&first, &second] {
        service.wait_for(process, "error", &closed);
        service.wait_for(process, "error", &moved);
    }
    assert_eq!(first.exit(), Exit::Status(0));
    assert!(!dir.join("first").exists() && dir.join("second").exists() && !dir.join("admin").exists());

    service.wait(&second, "alone");
    service.plan("listen without admin");
    let third = service.upgrade(&second);
    let removed =
        format!("the pid file {} is no longer declared and is removed", dir.join("second").display());
    service.wait_for(&second, "error", &removed);
    service.wait_for(&third, "error", &removed);
    assert_eq!(second.exit(), Exit::Status(0));
    assert!(!dir.join("second").exists());
}

/// A program of the attribute in the place of one of the builder: it is named by its binary.
#[test]
fn d2_another_program_in_the_place_of_the_executable_is_refused_by_its_name() {
    let dir = Dir::new();
    let executable = dir.copy_of_victim("svc");
    let (service, old) = dir.victim().binary(executable).serve();
    put(&dir, env!("CARGO_BIN_EXE_plain"));
    old.signal(Signal::HUP);
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("refused: it (program `plain`) adopts none of the listeners"), "{reason}");
    serves_on(&service, &old);
    put(&dir, env!("CARGO_BIN_EXE_victim"));
    service.upgrade(&old);
}

/// A release whose pid file is that of another service: `tableflip stop` with that file would stop the wrong one.
#[test]
fn f1_a_release_with_the_pid_file_of_another_service_is_refused() {
    let (dir, other_dir) = (Dir::new(), Dir::new());
    let (other, theirs) = other_dir.victim().serve();
    let pidfile = |path: &Path| format!("listen pidfile {}", path.display());
    let victim = dir.victim().without_env("TABLEFLIP_PIDFILE").plan(&pidfile(&dir.join("pid")));
    let (service, old) = victim.serve();
    let refused = format!(
        "the pid file {} names process {}, a running {}; upgrade or stop that one, or give this one a pid file of its own",
        other_dir.join("pid").display(),
        theirs.pid(),
        env!("CARGO_BIN_EXE_victim"),
    );
    // By the path itself, and by one that leads there.
    let link = dir.join("link");
    symlink(other_dir.path(), &link).unwrap();
    for path in [other_dir.join("pid"), link.join("pid")] {
        service.plan(&pidfile(&path));
        let new = service.start_upgrade(&old);
        let reason = service.wait_for_failure(&old);
        let refused =
            refused.replace(&other_dir.join("pid").display().to_string(), &path.display().to_string());
        assert!(reason.contains(&refused), "{reason}");
        assert!(new.is_gone());
        serves_on(&service, &old);
        serves_on(&other, &theirs);
    }

    // It initialises when the other one starts.
    let gate = dir.gate("init");
    theirs.signal(Signal::TERM);
    assert_eq!(theirs.exit(), Exit::Status(0));
    service.plan(&format!("{}; init gate init", pidfile(&other_dir.join("pid"))));
    let new = service.start_upgrade(&old);
    service.wait(&new, "gate");
    let (other, theirs) = other_dir.victim().serve();
    gate.open();
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains(&format!("names process {}, a running ", theirs.pid())), "{reason}");
    assert!(new.is_gone());
    serves_on(&service, &old);
    serves_on(&other, &theirs);

    // A file of its own, and the one that the predecessor has.
    service.plan(&pidfile(&dir.join("second")));
    let second = service.upgrade(&old);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&second, "alone");
    service.plan(&pidfile(&dir.join("second")));
    service.upgrade(&second);
}

/// The process that the pid file names, once it is another than before.
fn next(dir: &Dir, before: u32) -> u32 {
    let named = || fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok().filter(|pid| *pid != before);
    dir.wait_until("another process in the pid file", named)
}

/// Puts another program in the place of the executable, as a deploy does.
fn put(dir: &Dir, program: &str) {
    let aside = dir.copy(program, "next");
    fs::rename(aside, dir.join("svc")).unwrap();
}

/// Services as users write them, of one package: from one binary to another, and from the attribute to the builder and back.
#[test]
fn d2_another_binary_of_the_package_and_from_the_attribute_to_the_builder_and_back() {
    let dir = Dir::new();
    dir.copy(env!("CARGO_BIN_EXE_ten_lines"), "svc");
    let echo = format!("unix://{}", dir.join("echo").display());
    let command = dir.command(dir.join("svc")).arg("tasks").env("TABLEFLIP_LISTEN_ECHO", &echo);
    let command = command.env("TABLEFLIP_PROBATION", "50ms").env("TABLEFLIP_UPGRADE_TIMEOUT", "1h");
    // What a victim needs; it declares the listener that the variable is about.
    let command = command.env("VICTIM_DIR", dir.path()).listen("echo", &echo);
    let service = command.env("TABLEFLIP_PIDFILE", dir.join("pid")).start();
    let answers = |what: &str| assert_eq!(service.connect_unix("echo").ask(what), what);
    let upgrade = |pid: u32| service.process(pid).signal(Signal::HUP);
    let mut pid = next(&dir, 0);
    assert_eq!(pid, service.first().pid());
    answers("hello");
    let said = |text: &str| dir.wait_until(text, || service.log().contains(text).then_some(()));

    // Another binary, which serves the same listener: a warning on both sides.
    put(&dir, env!("CARGO_BIN_EXE_at_run_time"));
    upgrade(pid);
    let new = next(&dir, pid);
    answers("hello");
    let renamed = "the service was `ten_lines` and is `at_run_time` now; is it the right executable?";
    said(&format!("tableflip: [generation 1, pid {pid}] {renamed}\n"));
    said(&format!("tableflip: [generation 2, pid {new}] {renamed}\n"));
    service.process(pid).exit();
    pid = new;

    // The builder knows no name, and is not asked for one.
    put(&dir, env!("CARGO_BIN_EXE_victim"));
    let before = service.log().len();
    upgrade(pid);
    let new = next(&dir, pid);
    assert_eq!(service.connect_unix("echo").who(), (3, new));
    service.process(pid).exit();
    pid = new;
    put(&dir, env!("CARGO_BIN_EXE_at_run_time"));
    service.wait(&service.process(pid), "alone");
    upgrade(pid);
    let new = next(&dir, pid);
    answers("hello");
    service.process(pid).exit();
    assert!(!service.log()[before..].contains("right executable"), "{}", service.log());
    service.process(new).kill();
    assert!(Path::new(&dir.join("svc")).exists());
}
