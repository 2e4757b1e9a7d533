//! The messages to a service manager, word by word, at a socket of the test. `systemd.rs` has their effect.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use rustix::io::IoSliceMut;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::forks::release;
use crate::harness::{Command, DEADLINE, Dir, Exit, Process, Service, Signal, Strace, strace_or_skip};
use crate::look;
use crate::program::run;

struct Manager(UnixDatagram);

impl Manager {
    fn new(dir: &Dir) -> Self {
        let socket = UnixDatagram::bind(dir.join("notify")).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline that is not zero");
        Self(socket)
    }

    /// The next message, and the descriptor that came with it.
    fn hear(&self) -> (String, Option<OwnedFd>) {
        let mut data = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut data)];
        let length =
            recvmsg(&self.0, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC).expect("a message").bytes;
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fd = fds.flatten().next();
        (String::from_utf8_lossy(&data[..length]).into_owned(), fd)
    }

    /// Hears all, and says nothing of it.
    fn nod(self) {
        std::thread::spawn(move || while self.0.recv(&mut [0; 4096]).is_ok() {});
    }

    /// The next message without a descriptor, that is not about time.
    fn line(&self) -> String {
        loop {
            let (message, fd) = self.hear();
            assert!(fd.is_none(), "{message}");
            if !message.starts_with("EXTEND_TIMEOUT_USEC=") {
                return message;
            }
        }
    }
}

fn managed(dir: &Dir) -> Command<'_> {
    dir.victim().env("NOTIFY_SOCKET", dir.join("notify"))
}

/// M2, S2: whom to follow, and that it is ready, is said by the one that is followed so far; of another it would not be taken.
#[test]
fn s2_the_old_one_waits_until_the_manager_has_heard_whom_to_follow() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let (service, old) = managed(&dir).serve();
    assert_eq!(manager.line(), "READY=1\nSTATUS=generation 1 serves");
    old.signal(Signal::HUP);
    let reloading = manager.line();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.split_once('\n'));
    let (time, status) = time.expect(&reloading);
    assert!(time.parse::<u64>().is_ok_and(|usec| usec > 0), "{reloading}");
    assert_eq!(status, "STATUS=generation 1 serves, and is being upgraded");
    let new = service.next_process();
    assert_eq!(manager.line(), format!("MAINPID={}\nREADY=1\nSTATUS=generation 2 serves", new.pid()));
    let (message, barrier) = manager.hear();
    assert_eq!(message, "BARRIER=1");
    assert!(barrier.is_some());
    // Nothing but the manager keeps it: it has no connection.
    service.wait(&old, "step:Announcing");
    assert!(!service.has_said(&old, "draining") && !old.has_exited());
    drop(barrier);
    service.wait(&old, "draining");
    assert_eq!(old.exit(), Exit::Status(0));
    // Told that it is followed, the new one speaks for itself, of what was not said for it.
    new.signal(Signal::TERM);
    assert_eq!(manager.line(), "STOPPING=1\nSTATUS=stopping; 0 connections are open");
    assert_eq!(new.exit(), Exit::Status(0), "it is a child of the test, which has started the first");
}

/// An upgrade as far as to where the manager has received whom to follow, and the old one does not know that: with what is
/// dropped it hears.
fn announced(service: &Service, manager: &Manager, old: &Process) -> (Process, OwnedFd) {
    assert!(manager.line().starts_with("READY=1"));
    announced_next(service, manager, old)
}

/// The same, once what comes with the first `READY=1` was heard.
fn announced_next(service: &Service, manager: &Manager, old: &Process) -> (Process, OwnedFd) {
    let new = service.start_upgrade(old);
    assert!(manager.line().starts_with("RELOADING=1"));
    assert!(manager.line().starts_with(&format!("MAINPID={}\n", new.pid())));
    let (message, barrier) = manager.hear();
    assert_eq!(message, "BARRIER=1");
    (new, barrier.expect("what it is dropped by"))
}

/// The successor knows that it is followed before the manager does, which else waited for the refusal to its timeout, of 90 s
/// with systemd.
#[test]
fn m3_an_upgrade_is_refused_to_a_manager_that_is_ahead() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let (service, old) = managed(&dir).serve();
    let (new, barrier) = announced(&service, &manager, &old);
    new.signal(Signal::HUP);
    assert!(manager.line().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    let refused =
        "READY=1\nSTATUS=generation 2 serves; the last upgrade failed: the predecessor is still draining";
    assert_eq!(manager.line(), refused);
    drop(barrier);
    service.wait(&new, "alone");
    let newer = service.upgrade(&new);
    assert!(manager.line().starts_with("RELOADING=1"), "it is told once");
    assert!(
        manager.line().starts_with(&format!("MAINPID={}\nREADY=1\nSTATUS=generation 3 serves", newer.pid()))
    );
}

/// A manager that follows the new one already may stop it before the old one knows. Its end would be that of the service, and
/// the old one be sent a second SIGTERM.
#[test]
fn s15_who_is_stopped_by_a_manager_that_is_ahead_outlives_its_predecessor() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let (service, old) = managed(&dir).serve();
    let mut client = service.open(&old);
    let (new, barrier) = announced(&service, &manager, &old);
    new.signal(Signal::TERM);
    assert_eq!(manager.line(), "STOPPING=1\nSTATUS=stopping; 0 connections are open");
    service.wait(&new, "step:Draining(Last");
    drop(barrier);
    service.wait(&old, "draining");
    assert_eq!(client.who(), (1, old.pid()));
    assert!(!new.has_exited());
    client.close();
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(new.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

/// With `KillMode=mixed` or `process` it is sent to the one alone that is followed at that moment: the successor, which is
/// followed a moment later, is not sent it.
#[test]
fn s15_a_stop_while_the_manager_is_told_whom_to_follow_reaches_both() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let (service, old) = managed(&dir).serve();
    let (new, barrier) = announced(&service, &manager, &old);
    let mut client = service.connect();
    assert_eq!(client.who(), (2, new.pid()));
    old.signal(Signal::TERM);
    assert_eq!(manager.line(), "STOPPING=1\nSTATUS=stopping; 1 connections are open");
    drop(barrier);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(client.who(), (2, new.pid()));
    client.close();
    assert_eq!(new.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

/// A stop is sent to each process in turn. The one that was sent it first may be gone when the other, which it has told, is
/// sent it: that is no second one.
#[test]
fn s15_a_stop_that_comes_after_the_successor_has_gone_is_the_first() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let (service, old) = managed(&dir).probation("1h").serve();
    let mut client = service.open(&old);
    let new = service.start_upgrade(&old);
    service.wait(&old, "standby");
    manager.nod();
    new.signal(Signal::TERM);
    assert_eq!(new.exit(), Exit::Status(0));
    service.wait(&old, "step:Draining(Stop");
    old.signal(Signal::TERM);
    service.wait(&old, "stop");
    assert_eq!(client.who(), (1, old.pid()));
    client.close();
    assert_eq!(old.exit(), Exit::Status(0));
}

#[test]
fn s13_a_manager_that_is_gone_keeps_nobody_from_an_upgrade() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let (service, old) = managed(&dir).serve();
    drop(manager);
    let new = service.upgrade(&old);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    std::fs::remove_file(dir.join("notify")).unwrap();
    let newer = service.upgrade(&new);
    assert_eq!(new.exit(), Exit::Status(0));
    assert_eq!(service.connect().who(), (3, newer.pid()));
}

/// A listener is kept while it is served, each once, and one that the successor gives up is not kept any longer.
#[test]
fn the_store_has_what_is_served() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    // The control socket is never kept, and so not to be let go of either.
    let command = managed(&dir).listen("other", "tcp://127.0.0.1:0").env("TABLEFLIP_CONTROL", "control");
    let (service, old) = command.env("FDSTORE", "8").serve();
    assert!(manager.line().starts_with("READY=1"));
    for name in ["echo", "other"] {
        let (message, fd) = manager.hear();
        assert_eq!(message, format!("FDSTORE=1\nFDNAME=tableflip.{name}"));
        assert!(fd.is_some());
    }
    service.plan("listen without other; listen with more tcp://127.0.0.1:0");
    let (new, _) = announced_next(&service, &manager, &old);
    service.wait(&new, "alone");
    assert_eq!(manager.line(), "FDSTOREREMOVE=1\nFDNAME=tableflip.other");
    for name in ["echo", "more"] {
        assert_eq!(manager.hear().0, format!("FDSTORE=1\nFDNAME=tableflip.{name}"));
    }
}

/// The socket of an address that has changed is let go of: its clients would wait for nobody.
#[test]
fn the_store_has_a_listener_at_the_address_that_it_has() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let command = managed(&dir).no_listeners().listen_unix("sock").env("FDSTORE", "8");
    // The name says that it is the same service, though no listener is.
    let (service, old) = command.plan("listen name svc").serve();
    assert!(manager.line().starts_with("READY=1"));
    assert_eq!(manager.hear().0, "FDSTORE=1\nFDNAME=tableflip.sock");
    let moved = format!("listen with sock unix://{}", dir.join("other").display());
    service.plan(&format!("listen name svc; listen without sock; {moved}"));
    let (new, _) = announced_next(&service, &manager, &old);
    service.wait(&new, "alone");
    assert_eq!(manager.line(), "FDSTOREREMOVE=1\nFDNAME=tableflip.sock");
    assert_eq!(manager.hear().0, "FDSTORE=1\nFDNAME=tableflip.sock");
}

/// Under a parent that stays each generation speaks for itself, and an old one that serves again finds kept what was.
#[test]
fn the_store_has_what_is_served_after_a_crash_in_the_probation() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let command = managed(&dir).listen("other", "tcp://127.0.0.1:0").env("TABLEFLIP_SUPERVISE", "always");
    let service = command.env("FDSTORE", "8").probation("1h").start();
    let (_supervisor, old) = (service.next_process(), service.next_process());
    service.wait_until_it_serves(&old);
    // The supervisor says that the service is ready as well, A7.
    let hear =
        || std::iter::repeat_with(|| manager.hear().0).find(|said| said != "READY=1").expect("endless");
    assert!(hear().starts_with("READY=1"));
    for name in ["echo", "other"] {
        assert_eq!(hear(), format!("FDSTORE=1\nFDNAME=tableflip.{name}"));
    }
    service.plan("listen without other; listen with more tcp://127.0.0.1:0");
    let new = service.start_upgrade(&old);
    service.wait(&old, "standby");
    service.wait(&new, "serving");
    // What it had to tell it has told by then.
    new.signal(Signal::HUP);
    service.wait_for(&new, "error", "upgrade refused");
    new.kill();
    let failed = "READY=1\nSTATUS=generation 1 serves; the last upgrade failed: ";
    let mut said = manager.line();
    while !said.starts_with(failed) {
        assert!(!said.starts_with("FDSTORE"), "{said}");
        said = manager.line();
    }
    assert_eq!(service.connect_to("other").who(), (1, old.pid()));
}

/// One that has another name in the successor is kept under that, and not under both.
#[test]
fn the_store_has_a_listener_under_the_name_that_it_has() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let path = dir.join("sock");
    let (service, old) = managed(&dir).no_listeners().listen_unix("sock").env("FDSTORE", "8").serve();
    assert!(manager.line().starts_with("READY=1"));
    assert_eq!(manager.hear().0, "FDSTORE=1\nFDNAME=tableflip.sock");
    service.plan(&format!("listen without sock; listen with other unix://{}", path.display()));
    let (new, _) = announced_next(&service, &manager, &old);
    service.wait(&new, "alone");
    assert_eq!(manager.line(), "FDSTOREREMOVE=1\nFDNAME=tableflip.sock");
    assert_eq!(manager.hear().0, "FDSTORE=1\nFDNAME=tableflip.other");
}

/// The memory is shared and not copied, on the way of a service manager as well; what cannot be run is said at once.
#[test]
fn m10_a_sibling_is_started_without_a_copy_of_the_heap() {
    let Some(Strace) = strace_or_skip() else { return };
    let dir = Dir::new();
    Manager::new(&dir).nod();
    let trace = dir.join("trace");
    let path = trace.to_str().expect("temporary directories are UTF-8");
    let arguments = ["-D", "-f", "-qq", "-e", "trace=clone,clone3,fork,vfork", "-o", path];
    let program = dir.copy_of_victim("svc");
    let (service, old) = managed(&dir).binary(&program).started_by("strace", &arguments).serve();
    let new = service.upgrade(&old);
    assert_eq!(look::status(&new, "PPid"), std::process::id().to_string());
    let text = std::fs::read_to_string(&trace).expect("strace has written it");
    let way = text.lines().find(|line| line.contains("CLONE_PARENT|")).expect(&text);
    assert!(way.contains("CLONE_VM") && way.contains("CLONE_VFORK") && way.contains("CLONE_PIDFD"), "{way}");
}

#[test]
fn a_sibling_that_cannot_be_run_is_said_at_once() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let program = dir.copy_of_victim("svc");
    let (service, old) = managed(&dir).binary(&program).serve();
    assert!(manager.line().starts_with("READY=1"));
    let aside = dir.join("aside");
    std::fs::rename(&program, &aside).unwrap();
    old.signal(Signal::HUP);
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains(&format!("cannot run {}: No such file", program.display())), "{reason}");
    assert!(manager.line().starts_with("RELOADING=1"));
    let failed = manager.line();
    assert!(
        failed.starts_with("READY=1\nSTATUS=generation 1 serves; the last upgrade failed: cannot run"),
        "{failed}"
    );
    std::fs::rename(&aside, &program).unwrap();
    let new = service.upgrade(&old);
    assert_eq!(service.connect().who(), (2, new.pid()));
}

/// It has nothing of its predecessor but what it is given: its signals, and one descriptor.
#[test]
fn m8_a_sibling_starts_as_a_child_does() {
    let dir = Dir::new();
    Manager::new(&dir).nod();
    let program = env!("CARGO_BIN_EXE_victim");
    // A child that is started at any moment inherits nothing of the way to the sibling.
    let ignores = ["--ignore-signal=USR2"];
    let command = managed(&dir).plan("serve breed /bin/true").binary(program).started_by("env", &ignores);
    let (service, mut old) = command.serve();
    let ignored = u64::from_str_radix(&look::status(&old, "SigIgn"), 16).expect("a mask");
    assert_ne!(ignored & 1 << (Signal::USR2.as_raw() - 1), 0);
    for _ in 0..5 {
        let new = service.upgrade(&old);
        let mask = |field| u64::from_str_radix(&look::status(&new, field), 16).expect("a mask");
        // SIGPIPE is ignored by every program in Rust, and two signals of its own by the C library.
        let usual = 1 << (Signal::PIPE.as_raw() - 1) | 3 << 31;
        assert_eq!((mask("SigBlk"), mask("SigIgn") & !usual), (0, 0));
        old.exit();
        service.wait(&new, "alone");
        old = new;
    }
    assert_eq!(service.served_by(), old.pid());
}

/// The predecessor that the manager has followed is dead, and it may not listen yet: nobody waits for that at the end of an
/// upgrade which fails, and the reason is among what is repeated.
#[test]
fn an_upgrade_that_fails_is_told_at_once_after_a_crash_as_well() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let program = dir.copy_of_victim("svc");
    let (service, old) = managed(&dir).binary(&program).probation("1h").serve();
    assert!(manager.line().starts_with("READY=1"));
    let new = service.start_upgrade(&old);
    assert!(manager.line().starts_with("RELOADING=1"));
    service.wait(&old, "standby");
    old.kill();
    service.wait(&new, "alone");
    std::fs::rename(&program, dir.join("aside")).unwrap();
    new.signal(Signal::HUP);
    while !manager.line().starts_with("RELOADING=1") {}
    let failed = manager.line();
    let start = "READY=1\nSTATUS=generation 2 serves; the last upgrade failed: cannot run";
    assert!(failed.starts_with(start), "{failed}");
    assert_eq!(manager.line(), failed);
}

/// The manager may follow it by then: it finds the old process by the pid file, at a time that it does not say, and refuses what
/// that says before.
#[test]
fn the_death_of_a_successor_that_was_announced_is_told_again_and_again() {
    let dir = Dir::new();
    let manager = Manager::new(&dir);
    let (service, old) = managed(&dir).serve();
    assert!(manager.line().starts_with("READY=1"));
    let new = service.start_upgrade(&old);
    assert!(manager.line().starts_with("RELOADING=1"));
    assert!(manager.line().starts_with(&format!("MAINPID={}\n", new.pid())));
    let barrier = manager.hear();
    assert_eq!(barrier.0, "BARRIER=1");
    new.kill();
    let failed = manager.line();
    assert!(failed.starts_with("READY=1\nSTATUS=generation 1 serves; the last upgrade failed: "), "{failed}");
    assert_eq!(manager.line(), failed);
    drop(barrier);
    assert_eq!(service.served_by(), old.pid());
    let newer = service.upgrade(&old);
    assert_eq!(service.connect().who(), (2, newer.pid()));
}

/// B1, A10: a sibling has what the first start had, under a low number.
#[test]
fn b1_a_sibling_has_the_environment_and_the_umask_of_the_first_start() {
    let dir = Dir::new();
    Manager::new(&dir).nod();
    let plan = "main setenv PLAIN no; main unsetenv INVOCATION_ID; init umask 0077; main open 1100";
    let command = managed(&dir).env("PLAIN", "as it is").env("INVOCATION_ID", "1").env("WATCHDOG_PID", "1");
    let (service, old) = command.plan(plan).serve();
    let mut before = look::environment(&old);
    before.retain(|variable| variable != "WATCHDOG_PID=1");
    let new = service.upgrade(&old);
    assert_eq!(look::status(&new, "PPid"), std::process::id().to_string(), "it is a sibling");
    assert_eq!(look::umask(&new), "0022");
    assert_eq!(look::environment(&new), before);
    let variables = std::fs::read_to_string(new.proc("environ")).unwrap();
    let number = variables.split('\0').find_map(|variable| variable.strip_prefix("TABLEFLIP_HANDOVER="));
    let (number, addressee) = number.unwrap().split_once(':').unwrap();
    assert!(number.parse::<u32>().unwrap() < 1024, "{number:?}");
    assert_eq!(addressee, new.pid().to_string());
}

/// A script that waits for the service is the child of the manager, which would not wait for the service at a stop.
#[test]
fn f7_a_release_behind_a_wrapper_is_warned_of_in_both_logs() {
    let dir = Dir::new();
    Manager::new(&dir).nod();
    let svc = dir.copy_of_victim("svc");
    let (service, first) = managed(&dir).binary(svc).env("TABLEFLIP_CONTROL", "pid.control").serve();
    let victim = env!("CARGO_BIN_EXE_victim");
    release(&dir, &format!("#!/bin/sh\n{victim} \"$@\"\nexit $?\n"));
    let ran = run(&dir, "upgrade --json pid");
    let second = service.next_process();
    let warning = format!(
        "process {}, which serves, is behind a wrapper and no child of the service manager: a stop would kill it at once; use \
         `exec` in the script",
        second.pid()
    );
    let last = ran.done().lines().last().unwrap().to_owned();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["reply"], &last["warnings"]), (&"upgraded".into(), &serde_json::json!([warning])));
    for process in [&first, &second] {
        service.wait_for(process, "error", &warning);
    }
    assert_eq!(first.exit(), Exit::Status(0));

    service.wait(&second, "alone");
    release(&dir, &format!("#!/bin/sh\nexec {victim} \"$@\"\n"));
    let ran = run(&dir, "upgrade --json pid");
    let third = service.next_process();
    let last = ran.done().lines().last().unwrap().to_owned();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["reply"], &last["warnings"]), (&"upgraded".into(), &serde_json::json!([])));
    assert!(!service.has_said(&third, "error"), "{}", service.log());
    assert_eq!(service.served_by(), third.pid());
}
