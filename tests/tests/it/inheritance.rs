//! What a child inherits: a successor its channel and nothing else, any other child nothing of this crate.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use processes::proc;

use crate::harness::{Command, Dir, Exit, Process, Signal, Strace, strace_or_skip};
use crate::limits::limit_files;
use crate::look;

const WITNESS: &str = env!("CARGO_BIN_EXE_witness");

/// The descriptors that each witness was started with, `NUMBER=TARGET`.
fn witnessed(dir: &Dir) -> Vec<Vec<String>> {
    let text = fs::read_to_string(dir.join("witness")).unwrap_or_default();
    let ours = |descriptor: &String| !look::foreign().contains(descriptor);
    // One that is being written is not looked at.
    let whole = text.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
    whole.lines().map(|line| line.split_whitespace().map(str::to_owned).filter(ours).collect()).collect()
}

#[test]
fn m8_no_other_child_inherits_anything_of_ours() {
    const UPGRADES: u64 = 20;
    let dir = Dir::new();
    let breed = format!("serve breed {WITNESS}");
    let mut command = dir.victim().listen_unix("sock").probation("10ms");
    for _ in 0..=UPGRADES {
        command = command.plan(&breed);
    }
    let (service, mut old) = command.serve();
    // Somebody's connection is among what could be inherited.
    let mut clients = Vec::new();
    for _ in 0..UPGRADES {
        clients.push(service.connect());
        let new = service.upgrade(&old);
        clients.clear();
        assert_eq!(old.exit(), Exit::Status(0));
        service.wait(&new, "alone");
        old = new;
    }
    let witnesses = witnessed(&dir);
    for descriptors in &witnesses {
        let numbers: Vec<_> = descriptors.iter().map(|descriptor| descriptor.split('=').next()).collect();
        assert_eq!(numbers, [Some("0"), Some("1"), Some("2")], "{descriptors:?}");
    }
    // Some in each generation, or nothing has been shown.
    assert!(witnesses.len() > 10 * 20, "only {} children", witnesses.len());
}

/// P7: stderr is where it was.
#[test]
fn a_successor_inherits_the_standard_streams_and_its_channel() {
    let dir = Dir::new();
    let path = dir.copy_of_victim("svc");
    let (service, old) = dir.victim().binary(&path).listen_unix("sock").serve();
    let _client = service.connect();
    let streams: Vec<_> =
        (0..3).map(|number| fs::read_link(old.proc(&format!("fd/{number}"))).unwrap()).collect();
    fs::remove_file(&path).unwrap();
    dir.copy(WITNESS, "svc");
    old.signal(Signal::HUP);
    // It says what it has and ends.
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("exited with status 0 before it served"), "{reason}");

    let witnesses = witnessed(&dir);
    let [descriptors] = &witnesses[..] else { panic!("{witnesses:?}") };
    assert_eq!(descriptors.len(), 4, "{descriptors:?}");
    for (number, stream) in streams.iter().enumerate() {
        assert_eq!(descriptors[number], format!("{number}={}", stream.display()));
    }
    assert!(descriptors[3].contains("=socket:["), "{descriptors:?}");
}

/// M8, K3: every descriptor of a service is closed on exec, at each stage of an upgrade, in both processes.
#[test]
fn m8_every_descriptor_is_closed_on_exec() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("sock").probation("1h").serve();
    let client = service.open(&old);
    assert_eq!(look::inheritable(&old), [""; 0]);
    let (new, gate) = service.start_upgrade_to(&old, "init");
    // They have sockets and a channel, or nothing has been shown.
    for process in [&old, &new] {
        assert!(look::kinds(process)["socket"] >= 5, "{:?}", look::kinds(process));
        assert_eq!(look::inheritable(process), [""; 0], "while {new:?} initialises");
    }
    gate.open();
    service.wait(&old, "standby");
    let other = service.connect();
    for process in [&old, &new] {
        assert_eq!(look::inheritable(process), [""; 0], "in the probation of {new:?}");
    }
    old.signal(Signal::TERM);
    service.wait_for(&old, "draining", "open=1");
    for process in [&old, &new] {
        assert_eq!(look::inheritable(process), [""; 0], "while {old:?} drains");
    }
    drop((client, other));
    assert_eq!(old.exit(), Exit::Status(0));
}

/// B1. What the body makes of its own umask is its own: the next process has that of the first start, as has its pid file.
#[test]
fn b1_the_umask_of_the_first_start_is_passed_on() {
    let dir = Dir::new();
    let first_umask = ["-c", r#"umask 0026 && exec "$@""#, "sh"];
    let command = dir.victim().started_by("sh", &first_umask).plan("main umask 0037; init umask 0077");
    let (service, first) = command.serve();
    assert_eq!(look::umask(&first), "0077");
    // What this one has before it comes to the harness is taken for that of the first start.
    let second = service.upgrade(&first);
    assert_eq!(look::umask(&second), "0037");
    let mode = fs::metadata(dir.join("pid")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666 & !0o037);
    service.wait(&second, "alone");
    // One that sets another in `main` keeps it, and its successor does not get it.
    service.plan("main umask 0002");
    let third = service.upgrade(&second);
    assert_eq!(look::umask(&third), "0002");
    service.wait(&third, "alone");
    let fourth = service.upgrade(&third);
    assert_eq!(look::umask(&fourth), "0037");
}

/// B1. What is started in the place of a dead release has the umask and the environment of the first start as well.
#[test]
fn b1_a_rescue_has_what_the_first_start_had() {
    let dir = Dir::new();
    let command = dir.victim().env("PLAIN", "as it is").plan("main setenv PLAIN no; init umask 0077");
    let (service, old) = command.serve();
    let before = look::environment(&old);
    let _open = service.open(&old);
    service.plan("main setenv PLAIN never; init umask 0007");
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");
    new.kill();
    let rescued = service.next_process();
    service.wait_until_it_serves(&rescued);
    assert_eq!(look::umask(&rescued), "0022");
    assert_eq!(look::environment(&rescued), before);
}

/// What exec(3) keeps and this crate leaves alone: all of it is that of the process that starts the successor.
#[test]
fn b1_what_is_kept_as_it_is() {
    const SCRIPT: &str = r#"ulimit -c 0; ulimit -s 4096; exec nice -n 3 taskset -c 0 ionice -c 3 "$@""#;
    let dir = Dir::new();
    let (service, old) = dir.victim().started_by("sh", &["-c", SCRIPT, "sh"]).serve();
    // What the process has made of itself since is kept as well: the body may need it for what it has open.
    limit_files(&old, Some(777));
    fs::write(old.proc("oom_score_adj"), "123").unwrap();
    let kept = |process: &Process| {
        let status = fs::read_to_string(process.proc("status")).unwrap();
        const FIELDS: [&str; 14] = [
            "Uid",
            "Gid",
            "Groups",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
            "NStgid",
            "NSsid",
            "NSpgid",
            "Cpus_allowed",
        ];
        // Its number is its own; how many it has is that of its namespaces.
        let value = |field: &str| match (field, proc::field(&status, field).unwrap().to_owned()) {
            ("NStgid", numbers) => numbers.split_whitespace().count().to_string(),
            (_, value) => value,
        };
        let mut kept: Vec<_> = FIELDS.map(|field| format!("{field} {}", value(field))).into();
        kept.extend(
            ["limits", "oom_score_adj", "cgroup"].map(|file| fs::read_to_string(process.proc(file)).unwrap()),
        );
        let links = ["fd/0", "fd/1", "fd/2", "root"].map(str::to_owned).into_iter();
        let namespaces = fs::read_dir(process.proc("ns")).unwrap().flatten();
        let mut namespaces: Vec<_> =
            namespaces.map(|entry| format!("ns/{}", entry.file_name().to_str().unwrap())).collect();
        namespaces.sort();
        kept.extend(
            links
                .chain(namespaces)
                .map(|link| format!("{link} {}", fs::read_link(process.proc(&link)).unwrap().display())),
        );
        // The terminal is the seventh field, the nice value the nineteenth, proc_pid_stat(5).
        let stat = fs::read_to_string(process.proc("stat")).unwrap();
        let rest: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        kept.extend([format!("tty {}", rest[4]), format!("nice {}", rest[16])]);
        kept
    };
    let before = kept(&old);
    assert!(before.contains(&"nice 3".to_owned()), "{before:?}");
    assert!(
        before.contains(&"Cpus_allowed 1".to_owned()) || before.iter().any(|it| it.ends_with(",00000001"))
    );
    assert!(before.iter().any(|it| it.contains("Max open files            777")), "{before:?}");
    let new = service.upgrade(&old);
    for (new, old) in kept(&new).iter().zip(&before) {
        assert_eq!(new, old);
    }
}

/// A10. The number of the channel is low, whatever is open in the process that starts a successor, and is that of nothing that
/// whoever started the service has it inherit.
#[test]
fn a10_the_channel_has_a_low_number() {
    let dir = Dir::new();
    let inherits = ["-c", r#"exec "$@" 3</dev/zero 5</dev/null"#, "sh"];
    let command = dir.victim().started_by("sh", &inherits).plan("main open 1500");
    let (service, mut old) = command.serve();
    for _ in 0..2 {
        assert!(look::numbers(&old).len() > 1500);
        service.plan("main open 1500");
        let new = service.upgrade(&old);
        let variables = fs::read_to_string(new.proc("environ")).unwrap();
        let mut variables = variables.split('\0');
        let number = variables.find_map(|variable| variable.strip_prefix("TABLEFLIP_HANDOVER=")).unwrap();
        let (number, addressee) = number.split_once(':').unwrap();
        assert!(number.parse::<u32>().unwrap() < 1024, "{number}");
        assert_eq!(addressee, new.pid().to_string());
        for (number, target) in [("3", "/dev/zero"), ("5", "/dev/null")] {
            assert_eq!(fs::read_link(new.proc("fd").join(number)).unwrap().to_str(), Some(target));
        }
        service.wait(&new, "alone");
        old = new;
    }
}

/// A service whose executable becomes a script that takes down its own status, at its first instruction: programs of
/// Rust set a few dispositions before `main`.
fn with_a_script_as_successor(dir: &Dir, command: Command<'_>) -> String {
    let path = dir.copy_of_victim("svc");
    let (service, old) = command.serve();
    // The thread that starts a successor is the one whose mask it would inherit.
    let spawner = look::status_of_thread(&old, "tableflip");
    assert_eq!(bits(&spawner, "SigBlk"), ALARM, "SIGALRM is blocked in it, or nothing has been shown");
    assert_eq!(bits(&spawner, "SigIgn") & (PIPE | USR2), PIPE | USR2);

    let status = dir.join("status");
    let script = format!("#!/bin/sh\nexec cat /proc/self/status >{}\n", status.display());
    let aside = dir.join("script");
    fs::write(&aside, script).unwrap();
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(&path).unwrap();
    dir.copy(&aside, "svc");
    old.signal(Signal::HUP);
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("exited with status 0 before it served"), "{reason}");
    fs::read_to_string(status).unwrap()
}

const fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}
const ALARM: u64 = bit(Signal::ALARM);
const PIPE: u64 = bit(Signal::PIPE);
const USR2: u64 = bit(Signal::USR2);
/// The two that glibc keeps for its threads, and makes every child that it spawns ignore; nptl(7).
const OF_THE_LIBRARY: u64 = 0b11 << 31;

/// A set of signals of a status file.
fn bits(status: &str, field: &str) -> u64 {
    u64::from_str_radix(proc::field(status, field).expect("a set of signals"), 16).expect("hexadecimal")
}

#[test]
fn p5_a_successor_starts_with_no_signal_blocked_or_ignored() {
    let dir = Dir::new();
    let command = dir
        .victim()
        .binary("/usr/bin/env")
        .arg("--block-signal=ALRM")
        .arg("--ignore-signal=USR2")
        .arg("--ignore-signal=PIPE")
        .arg(dir.join("svc"));
    let status = with_a_script_as_successor(&dir, command);
    assert_eq!(bits(&status, "SigBlk"), 0, "{status}");
    assert_eq!(bits(&status, "SigIgn") & !OF_THE_LIBRARY, 0, "{status}");
    assert_eq!(bits(&status, "SigPnd"), 0, "{status}");
}

/// M10. fork(2) copies the page tables of a heap, and every other thread waits for that: of all that is cloned,
/// threads and the successor, nothing has memory of its own.
#[test]
fn m10_a_successor_is_started_without_a_copy_of_the_heap() {
    let Some(Strace) = strace_or_skip() else { return };
    let dir = Dir::new();
    let trace = dir.join("trace");
    let path = trace.to_str().expect("temporary directories are UTF-8");
    // The tracer is a descendant, so that the service is the child of the test as ever.
    let arguments = ["-D", "-f", "-qq", "-e", "trace=clone,clone3,fork,vfork", "-o", path];
    let (service, old) = dir.victim().started_by("strace", &arguments).serve();
    let new = service.upgrade(&old);
    // Its end is its tracer's to learn first.
    old.exit();
    let text = fs::read_to_string(&trace).expect("strace has written it");
    let cloned: Vec<_> =
        text.lines().filter(|line| line.contains("clone") || line.contains("fork")).collect();
    let starts = cloned.iter().filter(|line| line.contains(&format!("= {}", new.pid()))).count();
    assert!(starts > 0, "the successor is not among them: {text}");
    for line in cloned {
        let shares = line.contains("CLONE_VM") || line.contains("vfork") || line.contains("resumed>");
        assert!(shares, "{line}");
    }
}

/// A service that waits for a signal with sigwait(3) or signalfd(2) has it blocked from before it runs the harness:
/// unblocked, the signal would kill it.
#[test]
fn p5_a_signal_that_is_not_ours_stays_blocked() {
    let dir = Dir::new();
    let command = dir.victim().binary("/usr/bin/env").arg("--block-signal=ALRM,USR1,USR2,TERM,HUP,INT");
    let command = command.arg(env!("CARGO_BIN_EXE_victim")).env("TABLEFLIP_UPGRADE_SIGNAL", "SIGUSR2");
    let (service, old) = command.serve();
    for thread in ["victim", "tableflip"] {
        let status = look::status_of_thread(&old, thread);
        // Those that are ours are meant to arrive, whatever whoever started it had blocked.
        assert_eq!(bits(&status, "SigBlk"), ALARM | bit(Signal::USR1) | bit(Signal::HUP), "{thread}");
    }
    old.signal(Signal::USR1);
    old.signal(Signal::USR2);
    let new = service.next_process();
    service.wait_until_it_serves(&new);
    assert_eq!(service.served_by(), new.pid());
    // What a successor is started with is no matter of who started the first process.
    assert_eq!(bits(&look::status_of_thread(&new, "victim"), "SigBlk"), 0);
}
