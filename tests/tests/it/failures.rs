//! A successor that fails, at every point and in every way; and requests that are refused.

use std::fs;

use crate::harness::{Dir, Exit, Service, Signal, names_in};

/// The old one serves as if nothing had been tried: to clients, in the pid file, and in the directory of it.
#[track_caller]
fn assert_untouched(dir: &Dir, service: &Service, old: u32) {
    assert_eq!(service.served_by(), old);
    assert_eq!(service.pidfile(), Some(old));
    let leftovers: Vec<_> =
        names_in(dir.path()).into_iter().filter(|name| name.starts_with(".pid")).collect();
    assert_eq!(leftovers, [""; 0], "left behind beside the pid file");
}

/// H1: the end of its channel is its death, and not that it is ready.
#[test]
fn a_successor_that_exits_before_it_is_ready() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    for plan in ["main exit 3", "init exit 3"] {
        service.plan(plan);
        let new = service.start_upgrade(&old);
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains("the successor exited with status 3 before it served"), "{plan}: {reason}");
        assert!(new.is_gone(), "{plan}");
        assert_untouched(&dir, &service, old.pid());
    }
}

#[test]
fn a_successor_that_is_killed_by_a_signal() {
    let dir = Dir::new();
    let gate = dir.gate("never opened");
    let (service, old) = dir.victim().serve();
    for plan in ["main gate never opened", "init gate never opened"] {
        service.plan(plan);
        let new = service.start_upgrade(&old);
        service.wait(&new, "gate");
        new.kill();
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains("the successor was killed by SIGKILL before it served"), "{plan}: {reason}");
        assert!(new.is_gone(), "{plan}");
        assert_untouched(&dir, &service, old.pid());
    }
    drop(gate);
}

#[test]
fn a_successor_that_panics_while_it_initialises() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    service.plan("init panic the configuration is wrong");
    let new = service.start_upgrade(&old);
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("the body panicked: the configuration is wrong"), "{reason}");
    assert!(new.is_gone());
    assert_untouched(&dir, &service, old.pid());
}

#[test]
fn a_successor_whose_body_returns_before_it_is_ready() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    for (plan, error) in [("init return 0", ""), ("init fail no such database", r#": "no such database""#)] {
        service.plan(plan);
        let new = service.start_upgrade(&old);
        let reason = service.wait_for_failure(&old);
        let pid = new.pid();
        let said =
            format!("the body returned before it was ready{error}; it was process {pid}; this process");
        assert!(reason.contains(&said), "{plan}: {reason}");
        assert!(new.is_gone(), "{plan}");
        assert_untouched(&dir, &service, old.pid());
    }
}

/// B3: the error of a body that takes `Ready` and has not notified, too: that it was dropped says less.
#[test]
fn b3_the_error_of_a_successor_that_returns_without_its_ready() {
    let dir = Dir::new();
    let (service, old) = dir.victim().takes_ready().serve();
    for plan in ["init fail no /etc/v.toml", "init panic no /etc/v.toml"] {
        service.plan(plan);
        let new = service.start_upgrade(&old);
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains("no /etc/v.toml") && !reason.contains("`Ready`"), "{plan}: {reason}");
        assert!(reason.contains(&format!("; it was process {}", new.pid())), "{plan}: {reason}");
        assert_untouched(&dir, &service, old.pid());
    }
}

/// B3: what ends a release that serves already is told as what ends one that does not; not only its status. D4: and so is an end
/// without an error.
#[test]
fn b3_why_the_body_of_a_successor_ends_in_its_probation() {
    for (order, end) in [
        ("fail no /etc/v.toml", r#"the body returned an error: "no /etc/v.toml""#),
        ("panic no /etc/v.toml", "the body panicked: no /etc/v.toml"),
        ("return 0", "the body returned"),
    ] {
        let dir = Dir::new();
        let (service, old) = dir.victim().probation("1h").serve();
        let new = service.upgrade(&old);
        // It may be gone before it answers.
        let mut client = service.connect();
        client.send(&format!("body {order}"));
        let reason = service.wait_for_failure(&old);
        let pid = new.pid();
        let said = format!(" in its probation: {end}; it was process {pid}; this process serves on");
        assert!(reason.contains(&said), "{order}: {reason}");
        service.wait_for(&new, "error", &format!("{end}; this process ends, and its predecessor goes on"));
        assert_untouched(&dir, &service, old.pid());
    }
}

/// The same of one whose predecessor drains already, and that is started again.
#[test]
fn b3_why_the_body_of_a_successor_ends_while_its_predecessor_drains() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "draining");
    let mut client = service.connect();
    client.send("body fail no /etc/v.toml");
    let said = format!(
        r#"the successor ended: the body returned an error: "no /etc/v.toml"; it was process {}; this process's own"#,
        new.pid()
    );
    service.wait_for(&old, "error", &said);
    let third = service.next_process();
    service.wait_until_it_serves(&third);
    drop(before);
}

/// D4: an end that nobody has asked for is a line, and one that somebody has is none.
#[test]
fn d4_a_body_that_returns_unasked_says_so() {
    let ended = "; the service ends";
    for (order, end, status) in [
        ("return 0", "the body returned; the service ends", 0),
        ("return 7", "the body returned; the service ends", 7),
        ("fail no room", r#"the body returned an error: "no room"; the service ends"#, 1),
        ("panic no room", "the body panicked: no room; the service ends", 101),
    ] {
        let dir = Dir::new();
        let (service, old) = dir.victim().serve();
        // It may be gone before it answers.
        let mut client = service.connect();
        client.send(&format!("body {order}"));
        service.wait_for(&old, "error", end);
        assert_eq!(old.exit(), Exit::Status(status), "{order}");
        assert_eq!(service.pidfile(), None);
    }
    let dir = Dir::new();
    let (service, old) = dir.victim().awaits_shutdown().serve();
    let new = service.upgrade(&old);
    assert_eq!(old.exit(), Exit::Status(0));
    new.signal(Signal::TERM);
    assert_eq!(new.exit(), Exit::Status(0));
    assert!(
        !service.log().contains(ended) && !service.log().contains("the body returned"),
        "{}",
        service.log()
    );
}

/// D4: while its successor initialises, that goes on, and serves.
#[test]
fn d4_a_body_that_returns_beside_a_successor_says_who_goes_on() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let mut client = service.connect();
    assert_eq!(client.who().1, old.pid());
    let (new, gate) = service.start_upgrade_to(&old, "init");
    client.send("body return 0");
    service.wait_for(&old, "error", "the body returned; this process ends, and its successor goes on");
    gate.open();
    service.wait_until_it_serves(&new);
    assert_eq!(service.served_by(), new.pid());
}

/// D6: who has not said a word has no body yet that could be blamed.
#[test]
fn d6_a_successor_that_has_not_said_anything_yet() {
    let dir = Dir::new();
    let (service, old) = dir.victim().upgrade_timeout("200ms").serve();
    for plan in ["main block", "main gate stopped"] {
        let stopped = plan.ends_with("stopped").then(|| dir.gate("stopped"));
        service.plan(plan);
        let new = service.start_late_upgrade(&old);
        if stopped.is_some() {
            new.signal(Signal::STOP);
        }
        let reason = service.wait_for_failure(&old);
        let said = "the successor was not ready within 200ms: it has not said anything yet: it was stopped, or hangs before";
        assert!(reason.contains(said), "{plan}: {reason}");
        assert!(reason.contains(&format!("; it was process {}", new.pid())), "{plan}: {reason}");
        assert!(new.is_gone(), "{plan}");
        assert_untouched(&dir, &service, old.pid());
    }
}

#[test]
fn a_successor_that_drops_ready() {
    let dir = Dir::new();
    let (service, old) = dir.victim().takes_ready().serve();
    service.plan("init drop-ready");
    let new = service.start_upgrade(&old);
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("the body dropped `Ready` without `notify`"), "{reason}");
    assert!(new.is_gone());
    assert_untouched(&dir, &service, old.pid());
}

#[test]
fn a_successor_that_says_itself_when_it_is_ready() {
    let dir = Dir::new();
    let gate = dir.gate("serve");
    let (service, old) = dir.victim().takes_ready().serve();
    service.plan("init notify; init gate serve");
    let new = service.start_upgrade(&old);
    // Ready by its word, before it has asked its listener for a connection.
    service.wait_until_it_serves(&new);
    service.wait(&old, "standby");
    assert!(!service.has_said(&new, "serve"));
    let mut client = service.connect();
    client.send("who");
    gate.open();
    assert_eq!(client.receive().unwrap(), format!("2 {}", new.pid()));
}

#[test]
fn a_successor_that_cannot_bind_what_is_new() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    // The address of the one that is inherited, under another name.
    service.plan(&format!("listen with other tcp://{}", service.address("echo")));
    let new = service.start_upgrade(&old);
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("listener `other`: cannot bind"), "{reason}");
    assert!(new.is_gone());
    assert_untouched(&dir, &service, old.pid());
}

#[test]
fn a_successor_that_is_never_ready() {
    let dir = Dir::new();
    let (service, old) = dir.victim().upgrade_timeout("200ms").serve();
    for plan in ["init never", "init block"] {
        service.plan(plan);
        let new = service.start_late_upgrade(&old);
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains("the successor was not ready within 200ms"), "{plan}: {reason}");
        // On a machine that is busy it may not have come to its body by then.
        let in_time = reason.contains("its body has not asked for a connection of `echo`");
        assert!(in_time || reason.contains("it has not said anything yet"), "{plan}: {reason}");
        assert!(new.is_gone(), "{plan}: it is killed, and waited for");
        assert_untouched(&dir, &service, old.pid());
    }
}

/// P11. It may have said why it fails and then not get out.
#[test]
fn a_successor_that_hangs_on_its_way_out() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    service.plan("init panic boom; exit block");
    let new = service.start_upgrade(&old);
    // At the latest when this is said, it is dead.
    service.wait(&old, "step:Serving");
    assert!(new.is_gone());
    assert_untouched(&dir, &service, old.pid());
    service.upgrade(&old);
}

/// From the word to serve until the answer nobody knows who serves; the time for that is a constant of the product.
#[test]
fn a_successor_that_hangs_where_it_was_told_to_serve() {
    let dir = Dir::new();
    let (service, old) = dir.victim().current_thread().serve();
    // Its body does not accept either, so that what comes meanwhile waits.
    let (new, _gate) = service.start_upgrade_to(&old, "step:TakingOver");
    let mut client = service.connect();
    client.send("who");
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("was told to serve and did not answer"), "{reason}");
    assert!(new.is_gone());
    assert_eq!(client.receive().unwrap(), format!("1 {}", old.pid()));
    assert_untouched(&dir, &service, old.pid());
}

/// The other way round: a process that is ready and hears nothing gives up, and does not serve beside the old one.
#[track_caller]
fn an_old_one_that_hangs_at(point: &str) {
    let dir = Dir::new();
    let gate = dir.gate("here");
    let (service, old) = dir.victim().plan(&format!("{point} gate here")).serve();
    let new = service.start_upgrade(&old);
    service.wait(&old, "gate");
    // It says so when it has given up.
    service.wait_for(&new, "error", "cannot start: the predecessor did not answer");
    let mut client = service.connect();
    client.send("who");
    gate.open();
    service.wait_for_failure(&old);
    assert!(new.is_gone());
    assert_eq!(client.receive().unwrap(), format!("1 {}", old.pid()));
    assert_untouched(&dir, &service, old.pid());
}

/// H9: the successor waits for it with a deadline, and not in a call that blocks.
#[test]
fn an_old_one_that_hangs_before_it_pauses() {
    an_old_one_that_hangs_at("step:Pausing");
}

#[test]
fn an_old_one_that_hangs_before_it_tells_its_successor_to_serve() {
    an_old_one_that_hangs_at("step:Committed");
}

/// The harness's own thread runs code of the program, such as what it does with a log line.
#[test]
fn a_panic_in_the_thread_of_the_harness_is_the_death_of_its_process() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    for point in ["prepared", "serving", "step:TakingOver"] {
        service.plan(&format!("{point} panic boom"));
        let new = service.start_upgrade(&old);
        service.wait_for_failure(&old);
        assert!(new.is_gone(), "{point}");
        assert_untouched(&dir, &service, old.pid());
    }
    drop(service);
    for point in ["upgrading", "step:Pausing", "standby", "step:Draining"] {
        let (service, old) = dir.victim().plan(&format!("{point} panic boom")).serve();
        let new = service.start_upgrade(&old);
        assert_eq!(old.exit(), Exit::Status(101), "{point}");
        service.wait_until_it_serves(&new);
        service.wait(&new, "alone");
        assert_untouched(&dir, &service, new.pid());
    }
}

#[test]
fn a_successor_that_cannot_write_the_pid_file() {
    let dir = Dir::new();
    let run = dir.join("run");
    fs::create_dir(&run).unwrap();
    let (service, old) = dir.victim().env("TABLEFLIP_PIDFILE", run.join("pid")).serve();
    fs::rename(&run, dir.join("away")).unwrap();
    let new = service.start_upgrade(&old);
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("cannot write the pid file") && reason.contains("No such file"), "{reason}");
    assert!(new.is_gone());
    assert_eq!(service.served_by(), old.pid());

    fs::rename(dir.join("away"), &run).unwrap();
    let new = service.upgrade(&old);
    assert_eq!(fs::read_to_string(run.join("pid")).unwrap(), format!("{}\n", new.pid()));
    drop(service);

    // A first start, which has nobody to go on instead of it.
    let service = dir.victim().env("TABLEFLIP_PIDFILE", dir.join("missing/pid")).listen_unix("local").start();
    assert_eq!(service.first().exit(), Exit::Status(1));
    assert!(service.log().contains("cannot start: cannot write the pid file"), "{}", service.log());
    assert!(!dir.join("local").exists());
}

#[test]
fn failed_upgrades_leave_nothing_open() {
    let dir = Dir::new();
    let (service, old) = dir.victim().upgrade_timeout("300ms").serve();
    // A descriptor of the runtime or a thread of it may come with the first.
    let look = || {
        service.served_by();
        let mut descriptors = old.descriptors();
        descriptors.retain(|descriptor| !descriptor.starts_with("socket:"));
        descriptors.sort();
        (descriptors, fs::read_dir(old.proc("task")).unwrap().count())
    };
    let fail = || {
        for plan in ["main exit 3", "init panic boom", "init never", "serving abort", "step:TakingOver abort"]
        {
            service.plan(plan);
            service.start_late_upgrade(&old);
            service.wait_for_failure(&old);
        }
    };
    fail();
    let (first, sockets) = (look(), old.descriptors().len());
    for _ in 0..5 {
        fail();
    }
    assert_eq!(look(), first);
    // A connection that was just closed may be there still.
    assert!(old.descriptors().len() <= sockets + 1, "{:?}", old.descriptors());
}

#[test]
fn the_listeners_that_a_successor_does_not_serve_are_named() {
    let dir = Dir::new();
    // Long enough for it to have served the others by then.
    let (service, old) =
        dir.victim().listen("admin", "tcp://127.0.0.1:0").listen_unix("local").upgrade_timeout("5s").serve();
    service.plan("init skip admin");
    let new = service.start_upgrade(&old);
    let reason = service.wait_for_failure(&old);
    let said = format!(
        "its body has not asked for a connection of `admin`; it was process {}; this process serves on",
        new.pid()
    );
    assert!(reason.ends_with(&said), "{reason}");
    assert_untouched(&dir, &service, old.pid());
    assert_eq!(service.connect_to("admin").who(), (1, old.pid()));
    assert_eq!(service.connect_unix("local").who(), (1, old.pid()));
}

/// M14, H1, H4, P1: at every step of a successor's start there is nothing that its death leaves wrong.
#[test]
fn a_successor_that_dies_at_any_step() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    // The body dies at `serve`, and the engine goes no further meanwhile.
    let _gate = dir.gate("never opened");
    let mut before = service.connect();
    for plan in [
        "main signal KILL",
        "init signal KILL",
        "serve signal KILL; step:Prepared gate never opened",
        "step:Prepared signal KILL",
        "step:TakingOver signal KILL",
    ] {
        service.plan(plan);
        let new = service.start_upgrade(&old);
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains("was killed by SIGKILL before it served"), "{plan}: {reason}");
        assert!(new.is_gone(), "{plan}");
        assert_eq!(before.who(), (1, old.pid()), "{plan}");
        assert_eq!(service.served_by(), old.pid(), "{plan}");
        assert_eq!(service.pidfile(), Some(old.pid()), "{plan}");
    }
}

/// As above, where it has the pid file already.
#[test]
fn m14_a_successor_that_dies_with_the_pid_file_in_its_name() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    for point in ["serving", "step:Serving"] {
        service.plan(&format!("{point} signal KILL"));
        let new = service.start_upgrade(&old);
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains("was killed by SIGKILL"), "{point}: {reason}");
        assert!(new.is_gone(), "{point}");
        assert_untouched(&dir, &service, old.pid());
    }
}

/// One that is killed with the new pid file written beside the old one, and not in its place yet.
#[test]
fn a_successor_that_dies_leaves_nothing_beside_the_pid_file() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    for point in ["prepared", "step:TakingOver"] {
        service.plan(&format!("{point} signal KILL"));
        service.start_upgrade(&old);
        service.wait_for_failure(&old);
        assert_untouched(&dir, &service, old.pid());
    }
}

/// M9, K4: those of a listener with SO_REUSEPORT as well, for both processes have the same socket of it, not one each.
#[test]
fn m9_connections_that_wait_while_nobody_accepts_are_answered() {
    let dir = Dir::new();
    let command = dir.victim().current_thread().listen_unix("local").probation("1h");
    let (service, old) = command.listen("shared", "tcp://127.0.0.1:0?reuse_port=true").serve();
    // By all that its predecessor can see the successor serves, but its only thread is blocked.
    service.plan("serve block");
    let new = service.upgrade(&old);
    service.wait(&new, "blocked");
    let mut clients: Vec<_> = (0..50).map(|_| service.connect()).collect();
    clients.extend((0..50).map(|_| service.connect_to("shared")));
    clients.extend((0..50).map(|_| service.connect_unix("local")));
    clients.iter_mut().for_each(|client| client.send("who"));

    new.kill();
    service.wait_for_failure(&old);
    for client in &mut clients {
        assert_eq!(client.receive().unwrap(), format!("1 {}", old.pid()));
    }
    assert_untouched(&dir, &service, old.pid());
}

/// M16, K1: O_NONBLOCK is a property of the socket, which both processes have. Without it the old one would fall
/// asleep in accept, and not notice that it is to pause.
#[test]
fn m16_a_successor_that_clears_o_nonblock() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    // Before the old one pauses, and after it.
    for plan in ["init clear-nonblock; init exit 3", "init clear-nonblock; serving exit 3"] {
        service.plan(plan);
        let new = service.start_upgrade(&old);
        service.wait_for_failure(&old);
        assert!(service.has_said(&new, "cleared"), "{plan}: the test shows nothing");
        assert!(old.listeners_are_nonblocking(), "{plan}");
        assert_untouched(&dir, &service, old.pid());
    }
    let new = service.upgrade(&old);
    assert_eq!(service.served_by(), new.pid());
    assert_eq!(old.exit(), Exit::Status(0));
}

/// H3: nobody is asked to open what this process is just opening.
#[test]
fn an_upgrade_is_refused_before_the_service_is_ready() {
    let dir = Dir::new();
    let gate = dir.gate("init");
    let service = dir.victim().plan("init gate init").start();
    let first = service.next_process();
    service.wait(&first, "gate");
    first.signal(Signal::HUP);
    service.wait_for(&first, "error", "upgrade refused: this process is not ready yet");
    assert_eq!(service.pidfile(), None, "nobody is named who does not serve");

    gate.open();
    service.wait_until_it_serves(&first);
    let second = service.upgrade(&first);
    assert_eq!(service.connect().who(), (2, second.pid()));
}

#[test]
fn an_upgrade_is_refused_while_the_predecessor_drains() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let before = service.open(&old);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    new.signal(Signal::HUP);
    service.wait_for(&new, "error", "upgrade refused: the predecessor is still draining");
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused: this process is terminating");

    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    let third = service.upgrade(&new);
    assert_eq!(service.connect().who(), (3, third.pid()));
}

/// M12: somebody in the process waits for every child there is, and gets this one.
#[test]
fn m12_a_successor_that_somebody_else_reaps() {
    let dir = Dir::new();
    // In the very thread that would reap it, so that there is no doubt who is first.
    let (service, old) = dir.victim().plan("upgrading reap").serve();
    for plan in ["main exit 3", "init exit 3"] {
        service.plan(plan);
        let new = service.start_upgrade(&old);
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains("its status was taken by another wait in this process"), "{plan}: {reason}");
        assert!(new.is_gone(), "{plan}");
        assert_untouched(&dir, &service, old.pid());
    }
}

/// P12. A successor inherits that SIGCHLD is ignored, unless it is reset; children are then reaped by the kernel.
#[test]
fn a_service_that_was_started_with_sigchld_ignored() {
    let dir = Dir::new();
    let (service, old) = dir.victim().started_by("env", &["--ignore-signal=CHLD"]).serve();
    service.plan("init exit 3");
    let new = service.start_upgrade(&old);
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("exited"), "{reason}");
    assert!(new.is_gone());
    assert_untouched(&dir, &service, old.pid());
    let new = service.upgrade(&old);
    assert_eq!(service.served_by(), new.pid());
}
