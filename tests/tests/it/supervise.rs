//! The supervisor: one process ID through every upgrade.

use std::fs;
use std::time::Instant;

use crate::harness::{Command, Dir, Exit, Process, Service, Signal, Strace, strace_or_skip};
use crate::look;

/// A service under a supervisor, and its first generation.
fn supervised(command: Command<'_>) -> (Service, Process, Process) {
    let service = command.env("TABLEFLIP_SUPERVISE", "always").start();
    let supervisor = service.next_process();
    let first = service.next_process();
    service.wait_until_it_serves(&first);
    assert_eq!(&supervisor.pid(), &service.first().pid());
    (service, supervisor, first)
}

/// An upgrade that is asked of the supervisor, up to the exit of the old process.
fn upgrade(service: &Service, supervisor: &Process, old: &Process) -> Process {
    supervisor.signal(Signal::HUP);
    let new = service.next_process();
    service.wait_until_it_serves(&new);
    service.wait(&new, "alone");
    assert_eq!(old.exit(), Exit::Reaped);
    new
}

#[test]
fn it_keeps_its_process_id_through_upgrades_and_ends_like_the_last_generation() {
    let dir = Dir::new();
    let (service, supervisor, first) = supervised(dir.victim());
    let mut old = first.clone();
    for generation in 2..5 {
        let new = upgrade(&service, &supervisor, &old);
        assert_eq!(service.connect().who(), (generation, new.pid()));
        assert_eq!(service.pidfile(), Some(new.pid()), "the pid file names who serves");
        assert_eq!(look::status(&new, "PPid"), supervisor.pid().to_string());
        old = new;
    }
    assert!(first.is_gone(), "it is reaped");
    assert_eq!(fs::read_dir(supervisor.proc("task")).unwrap().count(), 1);
    let sockets = supervisor.descriptors().into_iter().filter(|it| it.starts_with("socket:")).count();
    assert_eq!(sockets, 1, "no listener: {:?}", supervisor.descriptors());
    let mut client = service.open(&old);
    supervisor.signal(Signal::TERM);
    service.wait(&old, "draining");
    assert_eq!(client.who(), (4, old.pid()), "it is waited for");
    drop(client);
    assert_eq!(supervisor.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

/// B11. Each signal may come to the other thread, which has not blocked it.
#[test]
fn b11_a_supervisor_with_another_thread_misses_no_signal() {
    let dir = Dir::new();
    let (service, supervisor, first) = supervised(dir.victim().plan("main thread"));
    let mut old = first;
    for _ in 0..3 {
        old = upgrade(&service, &supervisor, &old);
    }
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.exit(), Exit::Status(0));
    service.assert_over();
}

/// B1. The first start is the supervisor's.
#[test]
fn b1_each_generation_has_the_environment_and_the_umask_of_the_supervisor() {
    let dir = Dir::new();
    let command =
        dir.victim().env("PLAIN", "as it is").started_by("sh", &["-c", r#"umask 0027 && exec "$@""#, "sh"]);
    let plan = "main setenv PLAIN no; init umask 0077";
    let (service, supervisor, first) = supervised(command.plan("").plan(plan).plan(plan));
    let ours = |process: &Process| {
        let mut variables = look::environment(process);
        variables.retain(|variable| !variable.starts_with("TABLEFLIP_SUPERVISOR="));
        variables
    };
    let before = ours(&supervisor);
    assert_eq!(ours(&first), before);
    let second = upgrade(&service, &supervisor, &first);
    let third = upgrade(&service, &supervisor, &second);
    assert_eq!((look::environment(&third), look::umask(&third)), (before, "0027".to_owned()));
}

/// No name of the service reaches the socket to the supervisor, and no name that is refused refuses an upgrade.
#[test]
fn b12_a_service_cannot_replace_the_socket_to_the_supervisor() {
    let dir = Dir::new();
    let (service, supervisor, first) = supervised(dir.victim());
    let mut client = service.open(&first);
    for name in ["supervisor\0".to_owned(), "\0".to_owned(), "x".repeat(4097)] {
        let refused = client.ask(&format!("pass {name}"));
        assert!(refused.starts_with("err the name "), "{refused}");
        assert_eq!(client.ask(&format!("withdraw {name}")), "withdrawn false");
    }
    assert_eq!(client.ask("pass supervisor"), "passed");
    drop(client);
    let second = upgrade(&service, &supervisor, &first);
    let third = upgrade(&service, &supervisor, &second);
    assert_eq!(service.connect().who(), (3, third.pid()));
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.exit(), Exit::Status(0));
}

#[test]
fn how_the_last_generation_ended_is_how_it_ends() {
    // What a body returns, at the stop; and a crash of a service that is alone.
    let dir = Dir::new();
    let (_service, supervisor, _first) =
        supervised(dir.victim().awaits_shutdown().plan("").plan("shutdown return 7"));
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.exit(), Exit::Status(7));

    let dir = Dir::new();
    let (service, supervisor, first) = supervised(dir.victim());
    let new = upgrade(&service, &supervisor, &first);
    new.kill();
    assert_eq!(supervisor.exit(), Exit::Status(128 + 9), "as a shell says of SIGKILL");
}

#[test]
fn a_service_that_cannot_start_is_no_service() {
    let dir = Dir::new();
    let service = dir
        .victim()
        .env("TABLEFLIP_SUPERVISE", "always")
        .env("TABLEFLIP_PIDFILE", dir.join("missing/pid"))
        .start();
    assert_eq!(service.first().exit(), Exit::Status(1));
    assert!(service.log().contains("cannot write the pid file"), "{}", service.log());
}

/// Two hundred requests in a row, then a stop: none is lost on the way, and the last word is the stop.
#[test]
fn every_signal_is_passed_on() {
    let dir = Dir::new();
    let (service, supervisor, first) = supervised(dir.victim().probation("1h"));
    supervisor.signal(Signal::HUP);
    let new = service.next_process();
    service.wait_until_it_serves(&new);
    service.wait(&first, "standby");
    // It follows who serves, back as well.
    new.kill();
    service.wait_for_failure(&first);
    for _ in 0..200 {
        supervisor.signal(Signal::HUP);
    }
    let new = service.next_process();
    service.wait_until_it_serves(&new);
    supervisor.signal(Signal::TERM);
    // That is the stop of the one that serves; the old one learns it from it.
    service.wait(&new, "draining");
    assert_eq!(supervisor.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
}

/// It is passed on to the one that serves, which has handed the service over by the time that it reads it.
#[test]
fn a_stop_that_meets_an_upgrade_stops_the_service() {
    let dir = Dir::new();
    let gate = dir.gate("here");
    let (service, supervisor, first) = supervised(dir.victim().probation("1h"));
    service.plan("step:TakingOver gate here");
    supervisor.signal(Signal::HUP);
    let new = service.next_process();
    service.wait(&new, "gate");
    first.stop();
    supervisor.signal(Signal::TERM);
    first.wait_for_pending(Signal::TERM);
    gate.open();
    service.wait(&new, "serving");
    first.signal(Signal::CONT);
    assert_eq!(supervisor.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
    assert_eq!(service.pidfile(), None);
}

/// What a terminal sends to its foreground group reaches the service once: twice would end it at once.
#[test]
fn what_is_sent_to_the_group_arrives_once() {
    let dir = Dir::new();
    let (service, supervisor, first) = supervised(dir.victim());
    let mut client = service.open(&first);
    supervisor.signal_group(Signal::INT);
    service.wait_for(&first, "draining", "open=1");
    assert_eq!(client.who(), (1, first.pid()));
    drop(client);
    assert_eq!(supervisor.exit(), Exit::Status(0));
}

#[test]
fn it_follows_a_successor_whose_predecessor_is_killed() {
    let dir = Dir::new();
    let gate = dir.gate("init");
    let (service, supervisor, first) = supervised(dir.victim());
    service.plan("init gate init");
    supervisor.signal(Signal::HUP);
    let new = service.next_process();
    service.wait(&new, "gate");
    first.kill();
    gate.open();
    service.wait_until_it_serves(&new);
    assert!(first.is_gone() || first.exit() == Exit::Reaped);
    assert_eq!(service.served_by(), new.pid());
    let third = upgrade(&service, &supervisor, &new);
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.exit(), Exit::Status(0));
    assert!(third.has_exited());
}

/// It says so before anybody can see that it serves. The supervisor is slow after it has looked who serves, whom it finds as
/// before.
#[test]
fn a_signal_is_passed_on_to_whoever_was_seen_to_serve() {
    let Some(Strace) = strace_or_skip() else { return };
    let dir = Dir::new();
    let gate = dir.gate("init");
    // Without -f, for the supervisor alone; in microseconds.
    let inject = "inject=recvmsg:delay_exit=500000";
    let arguments = ["-D", "-qq", "-e", "trace=recvmsg", "-e", inject, "-o", "/dev/null"];
    let program = dir.copy_of_victim("svc");
    let command = dir.victim().binary(&program).started_by("strace", &arguments);
    let (service, supervisor, first) = supervised(command);
    service.plan("init gate init");
    supervisor.signal(Signal::HUP);
    let new = service.next_process();
    service.wait(&new, "gate");
    // Its death has the supervisor look.
    first.kill();
    first.exit();
    gate.open();
    service.wait_until_it_serves(&new);
    supervisor.signal(Signal::HUP);
    let newer = service.next_process();
    service.wait_until_it_serves(&newer);
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.exit(), Exit::Status(0));
}

/// The service does not depend on it.
#[test]
fn a_service_whose_supervisor_is_killed_goes_on() {
    let dir = Dir::new();
    let (service, supervisor, first) = supervised(dir.victim());
    supervisor.kill();
    assert_eq!(supervisor.exit(), Exit::by(Signal::KILL));
    let new = service.upgrade(&first);
    assert_eq!(service.connect().who(), (2, new.pid()));
    new.signal(Signal::TERM);
    service.wait_until_all_are_gone();
}

/// Its socket is for the generations; what the service starts does not learn of it.
#[test]
fn its_variable_is_gone_before_the_body_runs() {
    let dir = Dir::new();
    let (service, supervisor, first) = supervised(dir.victim());
    assert_eq!(service.connect().ask("do run before env"), "done");
    let new = upgrade(&service, &supervisor, &first);
    assert_eq!(service.connect().ask("do run after env"), "done");
    for file in ["before", "after"] {
        let environment = fs::read_to_string(dir.join(file)).expect("the command has run");
        assert!(environment.contains("TABLEFLIP_SUPERVISE="), "{environment}");
        assert!(!environment.contains("TABLEFLIP_SUPERVISOR"), "{environment}");
    }
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.exit(), Exit::Status(0));
    assert!(new.has_exited());
}

/// What the kernel has no memory for is tried again.
#[test]
fn it_outlives_a_shortage_of_memory() {
    let Some(Strace) = strace_or_skip() else { return };
    let dir = Dir::new();
    let begun = Instant::now();
    // Without -f, for the supervisor alone. The first poll(2) of a program is that of the standard library, before main.
    let inject = "inject=poll,recvmsg:error=ENOMEM:when=2+3";
    let arguments = ["-D", "-qq", "-e", "trace=poll,recvmsg", "-e", inject, "-o", "/dev/null"];
    let program = dir.copy_of_victim("svc");
    let command = dir.victim().binary(&program).started_by("strace", &arguments);
    let (service, supervisor, first) = supervised(command);
    let new = upgrade(&service, &supervisor, &first);
    let newer = upgrade(&service, &supervisor, &new);
    supervisor.signal(Signal::TERM);
    assert_eq!(supervisor.exit(), Exit::Status(0));
    assert!(newer.has_exited());
    for what in ["the supervisor cannot wait: ", "the supervisor cannot hear who serves: "] {
        let line = format!("tableflip: [pid {}] {what}", supervisor.pid());
        // What goes on for longer is said every ten seconds.
        let said = service.log().matches(&line).count();
        let is_seldom = u64::try_from(said).is_ok_and(|said| said <= 1 + begun.elapsed().as_secs() / 10);
        assert!(said > 0 && is_seldom, "seldom, and by whom: {}", service.log());
    }
}
