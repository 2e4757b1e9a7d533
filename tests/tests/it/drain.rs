//! The end of a process: what the drain waits for, its deadline, and what the process leaves.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::find;
use crate::harness::{Dir, Exit, Signal, names_in, wait_until_refused};
use crate::look;

#[test]
fn an_open_connection_is_served_to_its_end() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").serve();
    let mut tcp = service.connect();
    let mut unix = service.connect_unix("local");
    assert_eq!(tcp.who(), (1, old.pid()));
    assert_eq!(unix.who(), (1, old.pid()));
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=2");

    assert_eq!(tcp.who(), (1, old.pid()));
    drop(tcp);
    assert_eq!(unix.who(), (1, old.pid()));
    assert_eq!(service.connect_unix("local").who(), (2, new.pid()));
    drop(unix);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(service.connect_unix("local").who(), (2, new.pid()));
}

/// Connections come all the time, from two clients at once, while the service is upgraded, and while it fails to be.
#[test]
fn no_connection_is_lost_across_upgrades() {
    let dir = Dir::new();
    let (service, mut process) = dir.victim().serve();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            // It panics if one is refused, reset or not answered.
            scope.spawn(|| {
                let mut generation = 1;
                while !done.load(Ordering::Relaxed) {
                    let (now, _) = service.connect().who();
                    assert!(now >= generation, "{now} after {generation}: old code served again");
                    generation = now;
                }
            });
        }
        let _done = Done(&done);
        for _ in 0..10 {
            for plan in ["init panic boom", "step:TakingOver abort"] {
                service.plan(plan);
                service.start_upgrade(&process);
                service.wait_for_failure(&process);
            }
            let new = service.upgrade(&process);
            assert_eq!(process.exit(), Exit::Status(0));
            service.wait(&new, "alone");
            process = new;
        }
    });
    assert_eq!(service.connect().who(), (11, process.pid()));
}

/// Ends the clients, also those of a test that fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What it does not have any more nobody waits for it to have closed: K5, a listener that is closed but not gone.
#[test]
fn k5_a_process_that_drains_has_let_go_of_the_listener() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    // Its successor is told to stop and does: only then is the address free. It is the last who has it.
    new.signal(Signal::TERM);
    assert_eq!(new.exit(), Exit::Reaped);
    service.wait_for(&old, "step:Draining", "event=Leaving");
    // Answered by whoever has acted on the step, so that what belongs to it is done.
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused: this process is terminating");
    // The task of the body closes the socket: it may still be about to.
    wait_until_refused(service.address("echo"));
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
}

/// M7. What is closed while another process has it goes on waking the epoll instance that it is registered with, so
/// it is deregistered first; and nobody calls shutdown(2), which would end it for the other process as well.
#[test]
fn m7_a_process_that_drains_watches_the_listener_no_longer() {
    let dir = Dir::new();
    // On one thread a task that was woken first runs first.
    let (service, old) = dir.victim().current_thread().serve();
    let listener = look::listening_inode(&service.address("echo"));
    assert!(look::watched(&old).contains(&listener), "the test shows nothing");
    let mut before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    before.who();
    assert!(!look::watched(&old).contains(&listener));
    assert!(look::watched(&new).contains(&listener));
    assert_eq!(service.served_by(), new.pid());
}

/// The same where it is the successor's death that leaves nobody to accept: no rescue follows a stop.
#[test]
fn k5_a_process_that_was_told_to_stop_lets_go_of_the_listener_when_its_successor_dies() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").probation("1h").serve();
    let mut before = service.open(&old);
    let new = service.upgrade(&old);
    old.signal(Signal::TERM);
    service.wait_for(&old, "draining", "open=1");
    new.kill();
    service.wait_for(&old, "step:Draining", "event=Exited");
    // Answered by whoever has acted on the step, so that what belongs to it is done.
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused: this process is terminating");
    wait_until_refused(service.address("echo"));
    assert_eq!(before.who(), (1, old.pid()));
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
    assert!(!dir.join("local").exists());
}

#[test]
fn a_guard_holds_the_drain() {
    let dir = Dir::new();
    let gate = dir.gate("guard");
    let (service, old) = dir.victim().serve();
    service.connect().ask("guard guard");
    service.wait(&old, "gate");
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "draining open=");
    // The refusal says that the new one knows the old one to be alive.
    new.signal(Signal::HUP);
    service.wait_for(&new, "error", "the predecessor is still draining");
    assert!(!old.has_exited());
    gate.open();
    assert_eq!(old.exit(), Exit::Status(0));
}

#[test]
fn a_guard_holds_a_stop() {
    let dir = Dir::new();
    let gate = dir.gate("guard");
    let (service, process) = dir.victim().serve();
    service.connect().ask("guard guard");
    service.wait(&process, "gate");
    process.signal(Signal::TERM);
    service.wait_for(&process, "draining", "draining open=");
    process.signal(Signal::HUP);
    service.wait_for(&process, "error", "upgrade refused: this process is terminating");
    assert_eq!(service.pidfile(), Some(process.pid()), "whoever waits for the pid file waits for the drain");
    gate.open();
    assert_eq!(process.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

/// D2, D7: whoever never ends is left behind.
#[test]
fn the_deadline_of_a_drain_ends_the_process() {
    let dir = Dir::new();
    let _gate = dir.gate("guard");
    let (service, old) = dir.victim().drain_timeout("100ms").serve();
    let mut open = service.connect();
    open.ask("guard guard");
    let new = service.upgrade(&old);
    let log = service.wait_for(&old, "error", "not drained within 100ms").text;
    assert!(log.contains("2 connections and guards are open"), "{log}");
    assert_eq!(old.exit(), Exit::Status(0));
    open.wait_for_the_end();

    let mut open = service.open(&new);
    new.signal(Signal::TERM);
    let log = service.wait_for(&new, "error", "not drained within 100ms").text;
    assert!(log.contains("1 connections and guards are open"), "{log}");
    assert_eq!(new.exit(), Exit::Status(0));
    open.wait_for_the_end();
    assert_eq!(service.pidfile(), None);
}

/// D2, D7: a runtime that waits for its threads would wait for ever.
#[test]
fn the_deadline_of_a_drain_ends_a_process_whose_body_is_blocked() {
    let dir = Dir::new();
    let (service, old) = dir.victim().current_thread().drain_timeout("100ms").serve();
    let mut open = service.connect();
    open.send("do block");
    service.wait(&old, "blocked");
    // It is upgraded all the same.
    let new = service.upgrade(&old);
    let log = service.wait_for(&old, "error", "not drained within 100ms").text;
    assert!(log.contains("the body has not returned"), "{log}");
    service.wait_for(&old, "error", "the body blocks its thread");
    assert_eq!(old.exit(), Exit::Status(0));
    open.wait_for_the_end();

    let mut open = service.open(&new);
    open.send("do block");
    service.wait(&new, "blocked");
    new.signal(Signal::TERM);
    service.wait_for(&new, "error", "the body blocks its thread");
    assert_eq!(new.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

/// What a program says that means "for ever", and what one says that means "not at all".
#[test]
fn timeouts_at_the_ends_of_their_range() {
    for (timeout, is_short) in [("500000000000years", false), ("0s", true)] {
        let dir = Dir::new();
        let command = dir.victim().drain_timeout(timeout);
        let (service, old) = if is_short { command.probation("0s") } else { command }.serve();
        let mut before = service.open(&old);
        let new = service.upgrade(&old);
        if is_short {
            before.wait_for_the_end();
        } else {
            service.wait_for(&old, "draining", "open=1");
            assert_eq!(before.who(), (1, old.pid()));
            drop(before);
        }
        assert_eq!(old.exit(), Exit::Status(0), "{timeout}");
        assert_eq!(service.served_by(), new.pid(), "{timeout}");
        new.signal(Signal::TERM);
        assert_eq!(new.exit(), Exit::Status(0), "{timeout}");
        assert_eq!(service.pidfile(), None, "{timeout}");
    }
}

#[test]
fn an_upgrade_that_may_take_for_ever_may_have_a_probation_for_ever() {
    let dir = Dir::new();
    let (service, old) =
        dir.victim().upgrade_timeout("500000000000years").probation("500000000000years").serve();
    let new = service.upgrade(&old);
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(service.served_by(), new.pid());
}

#[test]
fn a_second_sigterm_ends_the_process_at_once() {
    let dir = Dir::new();
    let (service, process) = dir.victim().serve();
    let mut open = service.open(&process);
    process.signal(Signal::TERM);
    service.wait_for(&process, "draining", "open=1");
    process.terminate_again();
    assert_eq!(process.exit(), Exit::by(Signal::TERM));
    open.wait_for_the_end();
    assert_eq!(service.pidfile(), None);
}

#[test]
fn a_second_sigterm_ends_a_process_that_drains_after_an_upgrade() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let mut open = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    // The first one says to finish what is open, which it does already.
    old.signal(Signal::TERM);
    service.wait(&old, "stop");
    assert_eq!(open.who(), (1, old.pid()));
    old.terminate_again();
    assert_eq!(old.exit(), Exit::by(Signal::TERM));
    service.wait(&new, "alone");
    service.assert_serves(&new);
}

#[test]
fn a_second_sigterm_ends_a_process_whose_body_is_blocked() {
    let dir = Dir::new();
    let (service, process) = dir.victim().current_thread().serve();
    service.connect().send("do block");
    service.wait(&process, "blocked");
    process.signal(Signal::TERM);
    service.wait(&process, "draining");
    process.terminate_again();
    assert_eq!(process.exit(), Exit::by(Signal::TERM));
    assert_eq!(service.pidfile(), None);
}

#[test]
fn the_exit_status_is_that_of_the_body() {
    for (plan, exit) in [
        ("return 0", Exit::Status(0)),
        ("return 7", Exit::Status(7)),
        ("fail disk full", Exit::Status(1)),
        ("panic boom", Exit::Status(101)),
    ] {
        let dir = Dir::new();
        // When it is told to stop, when it is replaced, and by itself.
        let (service, process) = dir.victim().awaits_shutdown().plan(&format!("shutdown {plan}")).serve();
        process.signal(Signal::TERM);
        assert_eq!(process.exit(), exit, "stopped: {plan}");
        assert_eq!(service.pidfile(), None, "stopped: {plan}");

        let (service, process) = dir.victim().awaits_shutdown().plan(&format!("shutdown {plan}")).serve();
        let new = service.upgrade(&process);
        assert_eq!(process.exit(), exit, "replaced: {plan}");
        assert_eq!(service.pidfile(), Some(new.pid()), "replaced: {plan}");
        assert_eq!(service.served_by(), new.pid(), "replaced: {plan}");
        drop(service);

        let (service, process) = dir.victim().listen_unix("local").serve();
        service.connect().send(&format!("body {plan}"));
        assert_eq!(process.exit(), exit, "by itself: {plan}");
        assert_eq!(service.pidfile(), None, "by itself: {plan}");
        assert!(!dir.join("local").exists(), "by itself: {plan}");
    }
}

/// The engine ends a process whose body cannot be dropped, and not one that has something to do after the service.
#[test]
fn what_the_program_does_after_the_service_takes_its_time() {
    let dir = Dir::new();
    let gate = dir.gate("after");
    let plan = "shutdown fail disk full; exit gate after";
    let (service, process) = dir.victim().awaits_shutdown().plan(plan).serve();
    process.signal(Signal::TERM);
    service.wait(&process, "gate");
    let threads = format!("/proc/{}/task", process.pid());
    find("end of the engine", || {
        let mut threads = fs::read_dir(&threads).expect("it lives").flatten();
        let is_engine = |thread: &fs::DirEntry| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "tableflip\n")
        };
        (!threads.any(|thread| is_engine(&thread))).then_some(())
    });
    wait_until_refused(service.address("echo"));
    gate.open();
    assert_eq!(process.exit(), Exit::Status(1));
}

/// A body that awaits `Shutdown` is waited for, though nothing is counted.
#[test]
fn a_body_that_awaits_shutdown_is_waited_for() {
    let dir = Dir::new();
    let gate = dir.gate("shutdown");
    let (service, process) =
        dir.victim().awaits_shutdown().plan("shutdown gate shutdown; shutdown return 5").serve();
    process.signal(Signal::TERM);
    service.wait_for(&process, "draining", "open=0");
    service.wait(&process, "gate");
    process.signal(Signal::HUP);
    service.wait_for(&process, "error", "upgrade refused: this process is terminating");
    gate.open();
    assert_eq!(process.exit(), Exit::Status(5));
}

/// A body that does not look at `Shutdown` is not waited for because a task of a connection has a clone of it.
#[test]
fn a5_a_clone_of_shutdown_in_a_task_holds_neither_an_upgrade_nor_a_stop() {
    for has_one_thread in [true, false] {
        let dir = Dir::new();
        let command = dir.victim().drain_timeout("1h");
        let (service, old) = if has_one_thread { command.current_thread() } else { command }.serve();
        assert_eq!(service.connect().ask("watch"), "watched false");
        let new = service.upgrade(&old);
        assert_eq!(old.exit(), Exit::Status(0));
        service.wait(&new, "alone");
        assert_eq!(service.connect().ask("watch"), "watched false");
        new.signal(Signal::TERM);
        assert_eq!(new.exit(), Exit::Status(0));
    }
}

#[test]
fn a_stop_removes_the_pid_file_and_the_unix_path() {
    let dir = Dir::new();
    let (service, process) = dir.victim().listen_unix("local").serve();
    assert!(dir.join("local").exists());
    process.signal(Signal::TERM);
    assert_eq!(process.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
    assert!(!dir.join("local").exists());
    drop(service);
    assert_eq!(names_in(dir.path()), ["log", "plan"], "they are the test's own");
}

/// K7. Device and inode tell whose it is.
#[test]
fn k7_a_unix_path_that_is_somebody_elses_by_now_stays() {
    let dir = Dir::new();
    let (_service, process) = dir.victim().listen_unix("local").listen_unix("other").serve();
    fs::remove_file(dir.join("local")).unwrap();
    let _theirs = UnixListener::bind(dir.join("local")).unwrap();
    fs::write(dir.join("file"), "precious").unwrap();
    fs::rename(dir.join("file"), dir.join("other")).unwrap();
    process.signal(Signal::TERM);
    assert_eq!(process.exit(), Exit::Status(0));
    assert!(dir.join("local").exists());
    assert_eq!(fs::read_to_string(dir.join("other")).unwrap(), "precious");
}

/// P9: it is removed by whom it names.
#[test]
fn a_pid_file_that_names_somebody_else_by_now_stays() {
    let dir = Dir::new();
    let (service, process) = dir.victim().serve();
    fs::write(dir.join("pid"), "1\n").unwrap();
    process.signal(Signal::TERM);
    assert_eq!(process.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), Some(1));
}

/// K7: the path is there at every moment, and it is the same socket.
#[test]
fn k7_a_unix_listener_keeps_its_path_across_upgrades() {
    let dir = Dir::new();
    let (service, mut process) = dir.victim().listen_unix("local").serve();
    let inode = || fs::symlink_metadata(dir.join("local")).unwrap().ino();
    let first = inode();
    for generation in 2..=4 {
        let new = service.upgrade(&process);
        assert_eq!(service.connect_unix("local").who(), (generation, new.pid()));
        assert_eq!(process.exit(), Exit::Status(0));
        service.wait(&new, "alone");
        assert_eq!(inode(), first);
        process = new;
    }
    // A successor that fails leaves it as well.
    for plan in ["main exit 3", "init exit 3", "init panic boom", "serving abort"] {
        service.plan(plan);
        service.start_upgrade(&process);
        service.wait_for_failure(&process);
        assert_eq!(inode(), first, "{plan}");
        assert_eq!(service.connect_unix("local").who(), (4, process.pid()), "{plan}");
    }
    process.signal(Signal::TERM);
    assert_eq!(process.exit(), Exit::Status(0));
    assert!(!dir.join("local").exists());
}

/// A release that declares other listeners: what is gone is closed once the release serves, and not before.
#[test]
fn a_listener_that_is_not_declared_any_more_is_closed() {
    let dir = Dir::new();
    let (service, old) =
        dir.victim().listen("tcp", "tcp://127.0.0.1:0").listen_unix("unix").probation("1h").serve();
    service.plan("listen without tcp; listen without unix");
    let new = service.upgrade(&old);
    // In standby nobody else would serve them.
    assert_eq!(service.connect_to("tcp").who(), (1, old.pid()));
    assert_eq!(service.connect_unix("unix").who(), (1, old.pid()));
    new.kill();
    service.wait_for_failure(&old);
    assert_eq!(service.connect_to("tcp").who(), (1, old.pid()));
    assert_eq!(service.connect_unix("unix").who(), (1, old.pid()));

    service.plan("listen without tcp; listen without unix");
    let new = service.upgrade(&old);
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    wait_until_refused(service.address("tcp"));
    assert!(!dir.join("unix").exists());
    assert_eq!(service.served_by(), new.pid());
}

/// What a release adds is taken away again if the release fails.
#[test]
fn a_listener_that_a_failed_successor_bound_is_removed() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let path = dir.join("added");
    let with = format!("listen with added unix://{}", path.to_str().unwrap());
    for crash in ["init panic boom", "init return 0", "init never; init never"] {
        service.plan(&format!("{with}; {crash}"));
        let new = service.start_upgrade(&old);
        if crash.starts_with("init never") {
            service.wait(&new, "init");
            assert!(path.exists());
            new.signal(Signal::TERM);
        }
        service.wait_for_failure(&old);
        assert!(!path.exists(), "{crash}");
    }
    service.plan(&with);
    let new = service.upgrade(&old);
    assert_eq!(service.connect_unix("added").who(), (2, new.pid()));
}
