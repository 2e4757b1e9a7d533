//! Signal handlers of the body beside those of the service.

use crate::harness::{Dir, Exit, Process, Service, Signal};
use crate::look;

/// One signal is one request: the process finishes what is open, and does not end at once as for a second Ctrl-C.
#[track_caller]
fn assert_drains_at(service: &Service, process: &Process, signal: Signal, heard: Option<&str>) {
    let mut open = service.open(process);
    process.signal(signal);
    if let Some(heard) = heard {
        service.wait(process, heard);
    }
    service.wait(process, "draining");
    assert_eq!(open.who().1, process.pid());
    drop(open);
    assert_eq!(process.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

fn handles(process: &Process, signal: Signal) -> bool {
    let caught = u64::from_str_radix(&look::status(process, "SigCgt"), 16).expect("a mask");
    caught >> (signal.as_raw() - 1) & 1 == 1
}

/// The crate has one slot for a process. This package turns on its feature `termination`, which takes SIGTERM and SIGHUP
/// as well: those stay the service's alone.
#[test]
fn b2_a_body_that_uses_ctrlc() {
    for point in ["main", "prepare", "init"] {
        let dir = Dir::new();
        let plan = format!("{point} ctrlc");
        let (service, old) = dir.victim().plan(&plan).serve();
        let set = service.wait(&old, "ctrlc-set");
        assert_eq!(set.text, "ok", "{point}");
        let caught = u64::from_str_radix(&service.wait(&old, "caught").text, 16).unwrap();
        for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
            assert_ne!(caught & 1 << (signal.as_raw() - 1), 0, "{signal:?} is not ctrlc's");
        }
        service.plan(&plan);
        let new = service.upgrade(&old);
        assert_eq!(old.exit(), Exit::Status(0), "{point}");
        service.wait(&new, "alone");
        assert_drains_at(&service, &new, Signal::INT, Some("ctrlc"));
        assert!(!service.has_said(&old, "ctrlc"), "{point}: the upgrade signal is not ctrlc's");

        let (service, process) = dir.victim().plan(&plan).serve();
        assert_drains_at(&service, &process, Signal::TERM, None);
        assert!(!service.has_said(&process, "ctrlc"), "{point}: SIGTERM is not ctrlc's");
    }
}

/// Later the slot is taken: a handler would replace that of the service.
#[test]
fn b2_after_the_first_accept_the_slot_of_ctrlc_is_taken() {
    let dir = Dir::new();
    let (service, process) = dir.victim().serve();
    assert_eq!(service.connect().ask("do ctrlc"), "done");
    assert_eq!(service.wait(&process, "ctrlc-set").text, "MultipleHandlers");
    assert_drains_at(&service, &process, Signal::INT, None);

    // A body that takes `Ready` says itself when it is ready.
    let (service, process) = dir.victim().takes_ready().plan("init ctrlc; init notify").serve();
    assert_eq!(service.wait(&process, "ctrlc-set").text, "ok");
    assert_drains_at(&service, &process, Signal::INT, Some("ctrlc"));
}

/// Without a listener there is no first accept.
#[test]
fn b2_a_service_without_listeners_is_ready_at_once() {
    for _ in 0..5 {
        let dir = Dir::new();
        let (service, process) = dir.victim().no_listeners().plan("init ctrlc").serve();
        assert_eq!(service.wait(&process, "ctrlc-set").text, "MultipleHandlers");
        process.signal(Signal::INT);
        assert_eq!(process.exit(), Exit::Status(0));
    }
    let dir = Dir::new();
    // `ctrlc` calls its handler in a thread of its own, which the end of the process does not wait for.
    let gate = dir.gate("end");
    let command = dir.victim().no_listeners().takes_ready().awaits_shutdown();
    let (service, process) = command.plan("init ctrlc; shutdown gate end").serve();
    assert_eq!(service.wait(&process, "ctrlc-set").text, "ok");
    process.signal(Signal::INT);
    service.wait(&process, "ctrlc");
    gate.open();
    assert_eq!(process.exit(), Exit::Status(0));
}

/// The handler of tokio, which is that of signal-hook, calls the one that was there before.
#[test]
fn b2_a_body_that_listens_by_tokio_hears_each_signal_and_so_does_the_service() {
    for signal in [Signal::INT, Signal::TERM] {
        for plan in ["", "main ctrlc", "prepare ctrlc"] {
            let dir = Dir::new();
            let command = dir.victim().env("VICTIM_TOKIO_SIGNALS", "1");
            let command = if plan.is_empty() { command } else { command.plan(plan) };
            let (service, process) = command.serve();
            assert_drains_at(&service, &process, signal, Some("tokio-signal"));
        }
    }
}

/// A handler of C, which calls no other one, in the place of ours.
#[test]
fn b2_a_handler_that_replaces_ours_is_chained() {
    for point in ["main", "prepare", "init"] {
        for signal in [Signal::INT, Signal::TERM] {
            let dir = Dir::new();
            let plan = format!("{point} sigaction {}", signal.as_raw());
            let (service, process) = dir.victim().plan(&plan).serve();
            assert_drains_at(&service, &process, signal, Some("handled"));
        }
        let dir = Dir::new();
        let plan = format!("{point} sigaction {}", Signal::HUP.as_raw());
        let (service, old) = dir.victim().plan(&plan).serve();
        let new = service.upgrade(&old);
        service.wait(&old, "handled");
        assert_eq!(old.exit(), Exit::Status(0), "{point}");
        assert_drains_at(&service, &new, Signal::TERM, None);
    }
}

/// SIGHUP is the program's if another signal upgrades, also where `ctrlc` would take it.
#[test]
fn b2_a_sighup_that_does_not_upgrade_is_left_to_the_program() {
    let dir = Dir::new();
    let command = || dir.victim().env("TABLEFLIP_UPGRADE_SIGNAL", "SIGUSR2");
    let (service, process) = command().serve();
    assert!(!handles(&process, Signal::HUP));
    drop(service);
    let (service, process) = command().plan("prepare sigaction 1").serve();
    process.signal(Signal::HUP);
    assert_eq!(service.wait(&process, "handled").text, "1");
    assert_eq!(service.served_by(), process.pid());
}

/// A shell without job control starts `svc &` so: Ctrl-C and Ctrl-\ are for the program in the foreground.
#[test]
fn b2_what_the_terminal_sends_stays_ignored_in_every_generation() {
    let ignored = ["--ignore-signal=INT,QUIT"];
    let is_ignored = |process: &Process, signal: Signal| {
        let mask = u64::from_str_radix(&look::status(process, "SigIgn"), 16).expect("a mask");
        mask >> (signal.as_raw() - 1) & 1 == 1
    };
    for supervise in ["never", "always"] {
        let dir = Dir::new();
        let command = dir.victim().env("TABLEFLIP_SUPERVISE", supervise).started_by("env", &ignored);
        let service = command.start();
        if supervise == "always" {
            service.next_process();
        }
        let mut old = service.next_process();
        service.wait_until_it_serves(&old);
        for generation in 1..=3 {
            for signal in [Signal::INT, Signal::QUIT] {
                assert!(is_ignored(&old, signal), "{supervise} {generation}");
                old.signal(signal);
                service.first().signal_if_alive(signal);
            }
            assert_eq!(service.served_by(), old.pid(), "{supervise} {generation}");
            let new = service.upgrade(&old);
            service.wait(&new, "alone");
            old = new;
        }
        old.signal(Signal::TERM);
        old.exit();
        service.assert_over();
    }
}

/// A body that asks for Ctrl-C gets it, ignored or not; the service goes on.
#[test]
fn b2_a_body_may_take_a_ctrl_c_that_is_ignored() {
    let dir = Dir::new();
    let command = dir.victim().plan("init ctrlc").started_by("env", &["--ignore-signal=INT"]);
    let (service, process) = command.serve();
    process.signal(Signal::INT);
    service.wait(&process, "ctrlc");
    service.upgrade(&process);
    assert!(!service.has_said(&process, "stop"));
}
