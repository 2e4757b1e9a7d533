//! Signals, from the first instruction of `main` to the last, beside other handlers of the same signals.

use std::time::Duration;

use crate::harness::{Dir, Exit, Process, Service, Signal};
use crate::look;

/// What a test starts gets the signals that it is sent, though the tests are a job of a script in the background, by nohup(1).
#[test]
fn the_harness_starts_everything_with_the_default_actions() {
    const INNER: &str = "HARNESS_INNER";
    if std::env::var_os(INNER).is_some() {
        let dir = Dir::new();
        let service = dir.command("cat").start();
        for set in ["SigIgn", "SigBlk"] {
            let signals = u64::from_str_radix(&look::status(service.first(), set), 16).unwrap();
            // Those that the C library keeps for its threads, nptl(7), and those that the harness leaves as they are.
            let left_alone =
                [Signal::TSTP, Signal::TTIN, Signal::TTOU].map(|signal| 1 << (signal.as_raw() - 1));
            let others = !left_alone.iter().fold(0b11 << 31, |all, signal: &u64| all | signal);
            assert_eq!(signals & others, 0, "{set}");
        }
        return;
    }
    let mut again = std::process::Command::new("env");
    again.args(["--ignore-signal=HUP,INT,QUIT,USR1,CHLD,TTIN,TTOU", "--block-signal=TERM,INT,USR2"]);
    let test = "signals::the_harness_starts_everything_with_the_default_actions";
    again.arg(std::env::current_exe().unwrap()).args(["--exact", test]).env(INNER, "1");
    let output = again.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
}

/// H3, P5. Whenever it comes, it ends the process: by default before there is a handler, in order after that.
#[test]
fn p5_sigterm_at_any_moment_of_a_start() {
    let dir = Dir::new();
    for round in 0..150 {
        let service = dir.victim().listen_unix("local").start();
        // Not to wait for anything: to be somewhere else in the start each time.
        std::thread::sleep(Duration::from_micros(round * 60));
        service.first().signal(Signal::TERM);
        let exit = service.first().exit();
        assert!(exit == Exit::Status(0) || exit == Exit::by(Signal::TERM), "{round}: {exit:?}");
        service.wait_until_all_are_gone();
        assert_eq!(service.pidfile(), None, "{round}");
        assert!(!dir.join("local").exists(), "{round}");
    }
}

/// The same for a successor: the service goes on with one of the two, or has stopped in order.
#[test]
fn p5_sigterm_at_any_moment_of_a_successors_start() {
    let dir = Dir::new();
    let (mut service, mut old) = dir.victim().probation("1h").serve();
    for round in 0..100 {
        old.signal(Signal::HUP);
        let new = service.successor_of(&old);
        std::thread::sleep(Duration::from_micros(round * 100));
        new.signal(Signal::TERM);
        new.exit();
        if service.wait_for_either((&old, "step:Serving"), (&old, "step:Draining")) {
            assert_eq!(service.served_by(), old.pid(), "{round}");
            assert_eq!(service.pidfile(), Some(old.pid()), "{round}");
        } else {
            // It served already, so that this was a stop of the service.
            assert_eq!(old.exit(), Exit::Status(0), "{round}");
            service.wait_until_all_are_gone();
            assert_eq!(service.pidfile(), None, "{round}");
            (service, old) = dir.victim().probation("1h").serve();
        }
    }
}

/// B9: the listeners are bound, and the preparation of the body goes on for as long as the test.
#[test]
fn b9_a_signal_ends_a_start_whose_preparation_blocks() {
    for signals in
        [&[Signal::TERM][..], &[Signal::INT], &[Signal::TERM, Signal::TERM], &[Signal::INT, Signal::TERM]]
    {
        let dir = Dir::new();
        let service = dir
            .victim()
            .listen_unix("local")
            .env("TABLEFLIP_CONTROL", "control")
            .plan("prepare block")
            .start();
        let first = service.next_process();
        service.wait(&first, "blocked");
        assert!(dir.join("local").exists() && dir.join("control").exists(), "{signals:?}");
        signals.iter().for_each(|signal| first.signal(*signal));
        // The first one is enough. Another may come while it ends.
        let exit = first.exit();
        let at_once = signals.len() > 1 && signals.iter().any(|signal| exit == Exit::by(*signal));
        assert!(exit == Exit::Status(0) || at_once, "{signals:?}: {exit:?}");
        assert!(!dir.join("local").exists() && !dir.join("control").exists(), "{signals:?}");
        assert_eq!(service.pidfile(), None, "{signals:?}");
    }
}

/// B9: an upgrade is refused meanwhile, and not later.
#[test]
fn b9_a_sighup_in_a_preparation_is_refused_at_once() {
    let dir = Dir::new();
    let gate = dir.gate("preparing");
    let service = dir.victim().plan("prepare gate preparing").start();
    let first = service.next_process();
    service.wait(&first, "gate");
    first.signal(Signal::HUP);
    service.wait_for(&first, "error", "upgrade refused: this process is not ready yet");
    gate.open();
    service.wait_until_it_serves(&first);
    assert_eq!(service.served_by(), first.pid());
}

/// B9: a name that is looked up for as long as the test. What has been bound before it is removed.
#[test]
fn b9_a_signal_ends_a_start_that_looks_up_a_name() {
    use rustix::fs::{Mode, OFlags, open};

    let dir = Dir::new();
    // resolver(7): aliases are read before a server is asked, here from somebody who says nothing.
    let aliases = dir.join("aliases");
    rustix::fs::mkfifoat(rustix::fs::CWD, &aliases, Mode::RUSR | Mode::WUSR).expect("a FIFO");
    let service = dir
        .victim()
        .no_listeners()
        .listen_unix("local")
        .listen("slow", "tcp://tableflip-slow:0")
        .env("HOSTALIASES", &aliases)
        .start();
    let first = service.next_process();
    let said_nothing = crate::harness::find("lookup", || {
        open(&aliases, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).ok()
    });
    assert!(dir.join("local").exists());
    first.signal(Signal::TERM);
    assert_eq!(first.exit(), Exit::Status(0));
    assert!(!dir.join("local").exists(), "it was bound");
    drop(said_nothing);
}

/// B9: of a successor it is the upgrade that fails, at once, and with the reason.
#[test]
fn b9_a_signal_ends_a_successor_whose_preparation_blocks() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").serve();
    for end in [Signal::TERM, Signal::INT] {
        service.plan("prepare block");
        let new = service.start_upgrade(&old);
        service.wait(&new, "blocked");
        new.signal(end);
        let reason = service.wait_for_failure(&old);
        assert!(reason.contains("the successor could not start: it was told to stop"), "{reason}");
        assert_eq!(service.served_by(), old.pid());
        assert!(dir.join("local").exists(), "it is the old one's");
    }
    let new = service.upgrade(&old);
    assert_eq!(service.served_by(), new.pid());
}

/// M19: one that comes before there is a handler for it kills a process that nobody relies on yet.
#[test]
fn m19_sighup_at_any_moment_of_a_successors_start() {
    let dir = Dir::new();
    let (service, mut old) = dir.victim().probation("1h").serve();
    for round in 0..100 {
        old.signal(Signal::HUP);
        let new = service.successor_of(&old);
        std::thread::sleep(Duration::from_micros(round * 100));
        new.signal(Signal::HUP);
        if service.wait_for_either((&old, "step:Serving"), (&old, "standby")) {
            assert!(new.is_gone(), "{round}");
        } else {
            // Before that it was not ready, and since then it has a predecessor.
            service.wait_for(&new, "error", "upgrade refused");
            service.wait_until_it_serves(&new);
            old.signal(Signal::TERM);
            assert_eq!(old.exit(), Exit::Status(0), "{round}");
            service.wait(&new, "alone");
            old = new;
        }
        assert_eq!(service.served_by(), old.pid(), "{round}");
        assert_eq!(service.pidfile(), Some(old.pid()), "{round}");
    }
}

#[test]
fn ctrl_c_stops_the_service() {
    let dir = Dir::new();
    let (service, process) = dir.victim().serve();
    let mut open = service.open(&process);
    process.signal(Signal::INT);
    service.wait_for(&process, "draining", "open=1");
    assert_eq!(open.who(), (1, process.pid()));
    drop(open);
    assert_eq!(process.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

#[test]
fn a_second_ctrl_c_ends_the_process_at_once() {
    let dir = Dir::new();
    let (service, process) = dir.victim().serve();
    let _open = service.open(&process);
    process.signal(Signal::INT);
    service.wait(&process, "draining");
    process.signal(Signal::INT);
    assert_eq!(process.exit(), Exit::by(Signal::INT));
    assert_eq!(service.pidfile(), None);
}

/// P6. As at a terminal, which sends it to every process of the group.
#[test]
fn ctrl_c_in_mid_upgrade_stops_everything() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let (new, gate) = service.start_upgrade_to(&old, "init");
    new.signal(Signal::INT);
    old.signal(Signal::INT);
    gate.open();
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
    assert_eq!(service.pidfile(), None);
}

/// P6. The same by somebody who does not wait for what is open, wherever the upgrade is: nobody is left, and nothing that is in the
/// way of the next start.
#[test]
fn ctrl_c_twice_in_mid_upgrade_ends_everything_at_once() {
    for point in ["main", "init", "step:Prepared", "step:TakingOver", "serving", "step:Serving"] {
        let dir = Dir::new();
        let (service, old) = dir.victim().listen_unix("local").probation("1h").serve();
        let mut open = service.open(&old);
        let (_new, gate) = service.start_upgrade_to(&old, point);
        old.signal_group(Signal::INT);
        service.wait(&old, "stop");
        assert_eq!(open.who(), (1, old.pid()), "{point}: the first leaves it what is open");
        old.signal_group(Signal::INT);
        gate.open();
        assert_eq!(old.exit(), Exit::by(Signal::INT), "{point}");
        service.wait_until_all_are_gone();
        assert_eq!(service.pidfile(), None, "{point}");
        open.wait_for_the_end();
        drop(service);
        let (service, next) = dir.victim().listen_unix("local").serve();
        assert_eq!(service.connect().who(), (1, next.pid()), "{point}");
        assert_eq!(service.pidfile(), Some(next.pid()), "{point}");
    }
}

#[test]
fn every_upgrade_signal_upgrades() {
    for (name, signal) in [
        ("SIGHUP", Signal::HUP),
        ("SIGUSR1", Signal::USR1),
        ("SIGUSR2", Signal::USR2),
        ("SIGQUIT", Signal::QUIT),
        ("SIGWINCH", Signal::WINCH),
    ] {
        let dir = Dir::new();
        let (service, old) = dir.victim().env("TABLEFLIP_UPGRADE_SIGNAL", name).serve();
        old.signal(signal);
        let new = service.next_process();
        service.wait_until_it_serves(&new);
        assert_eq!(old.exit(), Exit::Status(0), "{name}");
        service.wait(&new, "alone");
        new.signal(signal);
        let third = service.next_process();
        service.wait_until_it_serves(&third);
        assert_eq!(new.exit(), Exit::Status(0), "{name}");
        assert_eq!(service.connect().who(), (3, third.pid()), "{name}");
        third.signal(Signal::TERM);
        assert_eq!(third.exit(), Exit::Status(0), "{name}");
    }
}

/// With another upgrade signal SIGHUP is what it is in any program.
#[test]
fn sighup_is_left_alone_if_another_signal_upgrades() {
    let dir = Dir::new();
    let (service, process) = dir.victim().env("TABLEFLIP_UPGRADE_SIGNAL", "SIGUSR2").serve();
    process.signal(Signal::HUP);
    assert_eq!(process.exit(), Exit::by(Signal::HUP));
    drop(service);

    let command = dir.victim().env("TABLEFLIP_UPGRADE_SIGNAL", "SIGUSR2");
    let (service, process) = command.started_by("env", &["--ignore-signal=HUP"]).serve();
    process.signal(Signal::HUP);
    assert_eq!(service.served_by(), process.pid());
}

/// The feature `termination` of ctrlc takes SIGTERM and SIGHUP as well, and another crate of the tree may turn it on. A program that
/// does not use ctrlc itself has all three from us.
#[test]
fn ctrlcs_termination_without_a_handler_of_the_program() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = Dir::new();
        let (service, old) = dir.victim().serve();
        let new = service.upgrade(&old);
        assert_eq!(old.exit(), Exit::Status(0));
        new.signal(signal);
        assert_eq!(new.exit(), Exit::Status(0));
        assert_eq!(service.pidfile(), None);
    }
}

/// An upgrade ends, the next one succeeds, and a stop ends the service.
#[track_caller]
fn assert_upgrades_again_and_stops(service: &Service, old: &Process, new: &Process) {
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(new, "alone");
    let third = service.upgrade(new);
    assert_eq!(new.exit(), Exit::Status(0));
    service.wait(&third, "alone");
    third.signal(Signal::TERM);
    assert_eq!(third.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

/// `tokio::signal` puts its handler in front of ours and passes on what comes.
#[test]
fn a_body_that_listens_to_the_signals_by_tokio() {
    let dir = Dir::new();
    let (service, old) = dir.victim().env("VICTIM_TOKIO_SIGNALS", "1").serve();
    // It stays until its tasks have said what they got.
    let open = service.open(&old);
    let new = service.upgrade(&old);
    service.wait(&old, "tokio-signal");
    drop(open);
    assert_upgrades_again_and_stops(&service, &old, &new);
}

/// nohup(1), or a shell that has been told so: an operator who sends SIGHUP means it.
#[test]
fn sighup_upgrades_a_service_that_was_started_with_it_ignored() {
    let dir = Dir::new();
    let (service, old) = dir.victim().started_by("env", &["--ignore-signal=HUP"]).serve();
    let new = service.upgrade(&old);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    let third = service.upgrade(&new);
    assert_eq!(service.served_by(), third.pid());
}

/// A shell that puts a job in the background has it ignore Ctrl-C.
#[test]
fn ctrl_c_stays_ignored_by_a_job_in_the_background() {
    let dir = Dir::new();
    let (service, old) = dir.victim().started_by("env", &["--ignore-signal=INT"]).serve();
    old.signal(Signal::INT);
    assert_eq!(service.served_by(), old.pid());
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
}

/// std has children inherit the mask of the thread that starts them, rust#101077.
#[test]
fn signals_work_though_the_service_was_started_with_them_blocked() {
    let dir = Dir::new();
    let block = ["--block-signal=TERM", "--block-signal=HUP", "--block-signal=INT"];
    let (service, old) = dir.victim().started_by("env", &block).serve();
    let new = service.upgrade(&old);
    assert_upgrades_again_and_stops(&service, &old, &new);
}

/// One process is left, and serves, and can be upgraded and stopped.
#[track_caller]
fn assert_one_clear_state(service: &Service) {
    // What the signals have started ends first. The answer to an upgrade comes when that one is over.
    let last = loop {
        let mut client = service.connect();
        client.ask("predecessor");
        let answer = client.ask("upgrade");
        match answer.split(' ').collect::<Vec<_>>()[..] {
            ["ok", _, pid] => break service.process(pid.parse().unwrap()),
            // A signal may also have been the death of a successor that had no handler for it yet.
            [
                "err",
                "InProgress:"
                | "PredecessorOnStandby"
                | "PredecessorDraining:"
                | "SuccessorDraining:"
                | "Terminating:"
                | "Failed",
                ..,
            ] => {}
            _ => panic!("{answer}"),
        }
    };
    service.wait(&last, "alone");
    for process in service.processes().iter().filter(|process| **process != last) {
        process.exit();
    }
    service.assert_serves(&last);
    last.signal(Signal::TERM);
    assert_eq!(last.exit(), Exit::Status(0));
    service.assert_over();
}

/// Whichever is read first: it stops, and nothing of the upgrade is left.
#[test]
fn a_sighup_and_a_sigterm_at_once() {
    for round in 0..40 {
        let dir = Dir::new();
        let (service, old) = dir.victim().serve();
        let both = [Signal::HUP, Signal::TERM];
        both.iter().cycle().skip(round % 2).take(2).for_each(|signal| old.signal(*signal));
        assert_eq!(old.exit(), Exit::Status(0), "{round}");
        service.wait_until_all_are_gone();
        assert_eq!(service.pidfile(), None, "{round}");
    }
}

/// M19: to the process that the pid file names, as fast as they go.
#[test]
fn m19_two_hundred_sighups() {
    let dir = Dir::new();
    let (service, _first) = dir.victim().probation("1ms").serve();
    for _ in 0..200 {
        let named = service.pidfile().expect("there is a pid file at every moment");
        service.process(named).signal_if_alive(Signal::HUP);
        // An answer at every moment, whoever gives it.
        service.served_by();
    }
    assert_one_clear_state(&service);
}

/// To every process of the service, without regard to what it is doing.
#[test]
fn m19_two_hundred_sighups_to_everybody() {
    let dir = Dir::new();
    let (service, _first) = dir.victim().probation("1ms").serve();
    for _ in 0..200 {
        service.processes().iter().for_each(|process| process.signal_if_alive(Signal::HUP));
        service.served_by();
    }
    assert_one_clear_state(&service);
}

/// A reload that is repeated without end does not fill the disk.
#[test]
fn d8_refusals_of_one_reason_are_one_line() {
    const REQUESTS: u64 = 300;
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let (_new, _gate) = service.start_upgrade_to(&old, "init");
    let mut client = service.open(&old);
    for _ in 0..REQUESTS {
        assert!(client.ask("upgrade").starts_with("err InProgress"), "each is answered");
    }
    old.deliver(Signal::HUP);
    let status: serde_json::Value = serde_json::from_str(&client.ask("status")).unwrap();
    assert!(status["upgrades"]["refused"].as_u64().unwrap() >= REQUESTS, "each is counted: {status}");
    // How long it takes says how many lines there may be.
    let lines = service.log().matches("upgrade refused: an upgrade is in progress").count();
    assert!((1..30).contains(&lines), "{lines} lines");
}
