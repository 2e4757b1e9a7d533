//! Upgrades and stops of one service under a real systemd: the machine's, and a later one. `systemd_units.rs` has the units.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::harness::booted::{Booted, World};
use crate::harness::{Client, find};

/// The port of the service in the unit files.
pub(crate) const PORT: u16 = 7000;

/// A unit for it, with these lines more.
pub(crate) fn service(lines: &str) -> String {
    format!("[Service]\nExecStart=/usr/local/bin/echo-service\nRuntimeDirectory=echo\n{lines}\n")
}

pub(crate) const NOTIFY: &str = "Type=notify\nExecReload=/usr/local/bin/tableflip upgrade /run/echo/echo.pid";

pub(crate) fn world(world: World, unit: &str) -> World {
    world
        .program("/usr/local/bin/echo-service", env!("CARGO_BIN_EXE_unit"))
        .program("/usr/local/bin/tableflip", env!("CARGO_BIN_EXE_tableflip-program"))
        .unit("echo.service", unit)
}

fn boot(unit: &str) -> impl Iterator<Item = Booted> {
    let unit = service(unit);
    World::each().into_iter().map(move |it| world(it, &unit).boot())
}

/// A connection, and the generation and process that has accepted it.
pub(crate) fn open(systemd: &Booted) -> (Client, u64, u32) {
    let mut client = systemd.connect(PORT);
    let (generation, pid) = client.who();
    (client, generation, pid)
}

/// No word of systemd that something was not as it should be. After the death of a process that it followed it refuses what the
/// next one says until it follows that, and says so: that one cannot know when that is, and says it again.
pub(crate) fn assert_quiet(systemd: &Booted) {
    let journal = systemd.journal("echo");
    let refusals: &[_] = &["reception only permitted", "Got notification"];
    let is_crash = |line: &str| line.contains("Main process exited, code=killed");
    let refusals = if journal.lines().any(is_crash) { &[] } else { refusals };
    for complaint in ["not our child", "Refusing", "Cannot store"].iter().chain(refusals) {
        assert!(!journal.contains(complaint), "{journal}");
    }
}

/// A command that is under way.
pub(crate) struct UnderWay(Child);

impl UnderWay {
    pub(crate) fn is(&mut self) -> bool {
        self.0.try_wait().expect("it is a child").is_none()
    }

    /// Its end; whether it succeeded.
    pub(crate) fn succeeds(mut self) -> bool {
        self.0.wait().expect("it is a child").success()
    }

    /// A stop goes on until this client leaves, and then nothing of the service is left.
    #[track_caller]
    pub(crate) fn assert_ends_with(mut self, client: Client, systemd: &Booted) {
        assert!(self.is());
        client.close();
        assert!(self.succeeds());
        assert_stopped(systemd);
    }
}

pub(crate) fn begin(systemd: &Booted, command: &str) -> UnderWay {
    UnderWay(systemd.command(command).stderr(Stdio::null()).spawn().expect("nsenter runs"))
}

/// Waits until connections are accepted by a process of this generation; its process.
fn served_by(systemd: &Booted, generation: u64) -> u32 {
    find("generation that serves", || {
        // It may not even listen yet.
        let (now, pid) = Client::over_tcp(systemd.try_connect(PORT).ok()?).who();
        (now == generation).then_some(pid)
    })
}

/// Waits until one process is left, which serves and which systemd follows. Until then some connections are cut.
pub(crate) fn served_and_followed(systemd: &Booted) -> u32 {
    find("one that serves and is followed", || {
        let stream = systemd.try_connect(PORT).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a deadline that is not zero");
        let mut line = String::new();
        (&stream).write_all(b"who\n").ok()?;
        BufReader::new(&stream).read_line(&mut line).ok()?;
        let pid: u32 = line.trim_end().split_once(' ')?.1.parse().ok()?;
        let is_active = systemd.show("echo", "ActiveState") == "active";
        let is_it = is_active && systemd.main_pid("echo") == pid && systemd.processes("echo") == [pid];
        is_it.then_some(pid)
    })
}

/// A reload, and the end of the process that it replaces: until then the next one is refused.
pub(crate) fn upgrade(systemd: &Booted) {
    let before = systemd.processes("echo").len();
    systemd.run("timeout 20 systemctl reload echo");
    find("end of the predecessor", || (systemd.processes("echo").len() == before).then_some(()));
}

/// A stop waits for a connection that is open, and leaves nothing.
pub(crate) fn stop_waits(systemd: &Booted) {
    stop_waits_for(systemd, Duration::ZERO);
}

/// The same for one that stays open so long.
fn stop_waits_for(systemd: &Booted, drain: Duration) {
    let (mut client, _, pid) = open(systemd);
    let mut stop = begin(systemd, "systemctl stop echo");
    systemd.wait_for("echo", "ActiveState", "deactivating");
    let begun = Instant::now();
    find("end of the drain", || {
        assert_eq!(client.who().1, pid);
        (begun.elapsed() >= drain).then_some(())
    });
    assert!(stop.is(), "it waits");
    drop(client);
    assert!(stop.succeeds());
    assert_stopped(systemd);
}

pub(crate) fn assert_stopped(systemd: &Booted) {
    assert_eq!(systemd.show("echo", "ActiveState"), "inactive");
    assert_eq!(systemd.show("echo", "Result"), "success");
    assert_eq!(systemd.processes("echo"), [0_u32; 0]);
    assert_quiet(systemd);
}

#[test]
fn a_start_blocks_until_the_service_is_ready() {
    for systemd in boot_with_gate(NOTIFY) {
        let gate = systemd.shared().gate("init");
        let mut start = begin(&systemd, "systemctl start echo");
        systemd.wait_for("echo", "SubState", "start");
        find("a process", || systemd.journal("echo").contains("generation 1 is process").then_some(()));
        assert!(start.is());
        assert_eq!(systemd.show("echo", "ActiveState"), "activating");
        gate.open();
        assert!(start.succeeds());
        assert_eq!(systemd.show("echo", "ActiveState"), "active");
        assert_eq!(open(&systemd).2, systemd.main_pid("echo"));
        assert_eq!(systemd.show("echo", "StatusText"), "generation 1 serves");
    }
}

/// Services whose body initialises until a gate `init` is opened, if there is one.
fn boot_with_gate(lines: &str) -> impl Iterator<Item = Booted> {
    World::each().into_iter().map(move |it| {
        let gate = it.shared().join("gate-init");
        let lines = format!("{lines}\nEnvironment=UNIT_GATE={}", gate.display());
        world(it, &service(&lines)).boot()
    })
}

/// M1, S1, S2 and S4: the successor is a child of systemd, which is told while its predecessor lives and heard it before that
/// one exits.
#[test]
fn m1_s1_s2_s4_after_upgrades_a_stop_waits_for_the_drain() {
    for systemd in boot(&format!("{NOTIFY}\nEnvironment=UNIT_SUBREAPER=1")) {
        systemd.run("systemctl start echo");
        let (_, generation, mut old) = open(&systemd);
        assert_eq!((generation, old), (1, systemd.main_pid("echo")));
        for generation in 2..=11 {
            upgrade(&systemd);
            let (_, now, pid) = open(&systemd);
            assert_eq!(now, generation);
            assert_eq!(systemd.main_pid("echo"), pid, "it is the new one at once");
            assert_eq!(systemd.run(&format!("ps -o ppid= -p {pid}")), "1");
            assert_ne!(pid, old);
            assert_eq!(systemd.run("cat /run/echo/echo.pid"), pid.to_string());
            if generation == 2 {
                systemd.run("systemctl daemon-reexec");
            }
            old = pid;
        }
        stop_waits_for(&systemd, Duration::from_secs(2));
        systemd.run("systemctl start echo");
        upgrade(&systemd);
        stop_waits_for(&systemd, Duration::from_secs(2));
    }
}

/// S12 as well: a reload that fails leaves the main process alone.
#[test]
fn s12_a_reload_fails_when_the_upgrade_fails_and_the_service_is_up() {
    for systemd in boot(NOTIFY) {
        systemd.run("systemctl start echo");
        let main = systemd.main_pid("echo");
        systemd.run("cd /usr/local/bin && mv echo-service good && cp /bin/false echo-service");
        assert!(!systemd.try_run("systemctl reload echo").status.success());
        assert_eq!(systemd.show("echo", "ActiveState"), "active");
        assert_eq!((systemd.main_pid("echo"), open(&systemd).2), (main, main));
        let status = systemd.show("echo", "StatusText");
        let failed = "generation 1 serves; the last upgrade failed: the successor exited (the service manager has its status)";
        assert!(status.starts_with(failed), "{status}");
        systemd.run("rm /usr/local/bin/echo-service");
        assert!(!systemd.try_run("systemctl reload echo").status.success());
        let status = systemd.show("echo", "StatusText");
        assert!(status.contains("cannot run /usr/local/bin/echo-service: No such file"), "{status}");
        systemd.run("cd /usr/local/bin && mv good echo-service");
        upgrade(&systemd);
        assert_eq!(systemd.show("echo", "StatusText"), "generation 2 serves");
        assert_eq!(systemd.main_pid("echo"), open(&systemd).2);
        stop_waits(&systemd);
    }
}

/// Until a successor has passed its probation systemd follows its predecessor: followed, its death would be the end of the
/// service to systemd, which would end its predecessor as well.
#[test]
fn a_successor_that_crashes_in_its_probation_is_no_end_of_the_service() {
    for systemd in boot(&format!("{NOTIFY}\nRestart=on-failure\nEnvironment=TABLEFLIP_PROBATION=1h")) {
        systemd.run("systemctl start echo");
        let main = systemd.main_pid("echo");
        let mut reload = begin(&systemd, "systemctl reload echo");
        served_by(&systemd, 2);
        assert!(reload.is());
        open(&systemd).0.send("abort");
        assert!(!reload.succeeds());
        assert_eq!((systemd.main_pid("echo"), open(&systemd).2), (main, main));
        assert_eq!(systemd.show("echo", "NRestarts"), "0");
        assert_eq!(systemd.show("echo", "ActiveState"), "active");
        stop_waits(&systemd);
    }
}

/// Later that is so; the service is started again, and what the old one has begun is finished all the same.
#[test]
fn a_successor_that_crashes_while_its_predecessor_drains_is_started_again() {
    for systemd in boot(&format!("{NOTIFY}\nRestart=on-failure\nRestartSec=0")) {
        systemd.run("systemctl start echo");
        let (mut client, _, old) = open(&systemd);
        systemd.run("systemctl reload echo");
        open(&systemd).0.send("abort");
        systemd.wait_for("echo", "ActiveState", "deactivating");
        assert_eq!(client.who().1, old);
        client.close();
        systemd.wait_for("echo", "NRestarts", "1");
        systemd.wait_for("echo", "ActiveState", "active");
        assert_eq!((open(&systemd).1, open(&systemd).2), (1, systemd.main_pid("echo")));
        stop_waits(&systemd);
    }
    // With a pid file in the unit systemd may find the old one, which has its own executable serve again. Whichever is quicker,
    // somebody serves, and systemd follows that one.
    for systemd in boot(&format!("{NOTIFY}\nRestart=on-failure\nRestartSec=0\nPIDFile=/run/echo/echo.pid")) {
        systemd.run("systemctl start echo");
        let (client, _, _) = open(&systemd);
        systemd.run("systemctl reload echo");
        let new = systemd.main_pid("echo");
        open(&systemd).0.send("abort");
        find("end of the new one", || (!systemd.processes("echo").contains(&new)).then_some(()));
        client.close();
        served_and_followed(&systemd);
        systemd.run("systemctl stop echo");
    }
}

/// With a pid file in the unit systemd finds out who serves when the process dies that it follows.
#[test]
fn a_predecessor_that_is_killed_in_the_probation_is_no_end_of_the_service() {
    let lines = format!(
        "{NOTIFY}\nPIDFile=/run/echo/echo.pid\nRestart=on-failure\nEnvironment=TABLEFLIP_PROBATION=1h"
    );
    for systemd in boot(&lines) {
        systemd.run("systemctl start echo");
        let old = systemd.main_pid("echo");
        let reload = begin(&systemd, "systemctl reload echo");
        let new = served_by(&systemd, 2);
        systemd.run(&format!("kill -KILL {old}"));
        assert!(!reload.succeeds(), "its connection is to the old one");
        systemd.wait_for("echo", "MainPID", &new.to_string());
        systemd.wait_for("echo", "ActiveState", "active");
        assert_eq!((open(&systemd).2, systemd.show("echo", "NRestarts")), (new, "0".to_owned()));
        stop_waits(&systemd);
    }
}

/// Both drain, and whoever is done first: the one that systemd follows exits last, and so nobody gets a second SIGTERM.
#[test]
fn a_stop_of_two_processes_waits_for_both() {
    for kill_mode in ["control-group", "mixed"] {
        for systemd in boot(&format!("{NOTIFY}\nKillMode={kill_mode}")) {
            for old_first in [false, true] {
                systemd.run("systemctl start echo");
                let (mut one, _, old) = open(&systemd);
                systemd.run("systemctl reload echo");
                let (mut two, _, new) = open(&systemd);
                let stop = begin(&systemd, "systemctl stop echo");
                systemd.wait_for("echo", "ActiveState", "deactivating");
                if old_first {
                    std::mem::swap(&mut one, &mut two);
                }
                two.close();
                let left = if old_first { new } else { old };
                assert_eq!(one.who().1, left);
                stop.assert_ends_with(one, &systemd);
            }
        }
    }
}

/// As above, while the new one is on probation: systemd follows the old one, and some units send the stop to it alone.
#[test]
fn s15_a_stop_in_the_probation_reaches_both_and_leaves_nobody() {
    for kill_mode in ["control-group", "process"] {
        let lines = format!("{NOTIFY}\nKillMode={kill_mode}\nEnvironment=TABLEFLIP_PROBATION=1h");
        for systemd in boot(&lines) {
            systemd.run("systemctl start echo");
            let (mut one, _, old) = open(&systemd);
            // Not by a command that systemd waits for, whose failure would be its own.
            systemd.run("systemctl kill -s HUP --kill-who=main echo");
            let new = served_by(&systemd, 2);
            let mut two = systemd.connect(PORT);
            assert_eq!(two.who().1, new);
            let stop = begin(&systemd, "systemctl stop echo");
            systemd.wait_for("echo", "ActiveState", "deactivating");
            assert_eq!((one.who().1, two.who().1), (old, new));
            one.close();
            assert_eq!(two.who().1, new);
            stop.assert_ends_with(two, &systemd);
        }
    }
}

/// S14: a client of the old one leaves after the upgrade, and that is the end of the old one alone.
#[test]
fn s14_the_last_client_of_the_old_one_leaves() {
    for systemd in boot(NOTIFY) {
        systemd.run("systemctl start echo");
        let (client, _, old) = open(&systemd);
        systemd.run("systemctl reload echo");
        let new = systemd.main_pid("echo");
        assert_eq!(systemd.processes("echo").len(), 2);
        client.close();
        find("end of the old one", || (!systemd.processes("echo").contains(&old)).then_some(()));
        assert_eq!(systemd.show("echo", "ActiveState"), "active");
        assert_eq!((open(&systemd).2, systemd.main_pid("echo")), (new, new));
        stop_waits(&systemd);
    }
}

/// S3: nothing that the service starts finds where to notify; the manager takes no word from anybody but the main process.
#[test]
fn s3_what_the_service_starts_cannot_notify() {
    for systemd in boot(NOTIFY) {
        systemd.run("systemctl start echo");
        upgrade(&systemd);
        let (mut client, _, pid) = open(&systemd);
        assert_eq!(client.ask("environment"), "None");
        let executed = systemd.run(&format!("tr '\\0' '\\n' </proc/{pid}/environ"));
        assert!(executed.contains("NOTIFY_SOCKET=/run/systemd/notify"), "it got it itself: {executed}");
        assert!(!executed.contains("LISTEN_"), "{executed}");
        assert_quiet(&systemd);
    }
}

/// M3 and S6: `RELOADING=1` comes with its time in one datagram, and `READY=1` ends it whatever came of it.
#[test]
fn m3_s6_notify_reload_ends_with_every_upgrade() {
    let notify_reload = "Type=notify-reload";
    if let Some(it) = World::of_the_layer() {
        let systemd = world(it, &service(notify_reload)).boot();
        assert!(systemd.version() >= 253);
        systemd.run("systemctl start echo");
        for generation in 2..=4 {
            upgrade(&systemd);
            let (_, now, pid) = open(&systemd);
            assert_eq!((now, pid), (generation, systemd.main_pid("echo")));
        }
        // One that is refused is over at once.
        let (client, _, _) = open(&systemd);
        systemd.run("systemctl reload echo");
        systemd.run("timeout 20 systemctl reload echo");
        let status = systemd.show("echo", "StatusText");
        assert_eq!(status, "generation 5 serves; the last upgrade failed: the predecessor is still draining");
        drop(client);
        find("end of the predecessor", || (systemd.processes("echo").len() == 1).then_some(()));
        let main = systemd.main_pid("echo");
        systemd.run("cd /usr/local/bin && mv echo-service good && cp /bin/false echo-service");
        // There is no way to tell systemd here that a reload has failed; the status does.
        systemd.run("timeout 20 systemctl reload echo");
        let status = systemd.show("echo", "StatusText");
        assert!(status.contains("generation 5 serves; the last upgrade failed"), "{status}");
        assert_eq!((systemd.main_pid("echo"), open(&systemd).2), (main, main));
        systemd.run("cd /usr/local/bin && rm echo-service");
        systemd.run("timeout 20 systemctl reload echo");
        systemd.run("cd /usr/local/bin && mv good echo-service");
        upgrade(&systemd);
        assert_eq!(open(&systemd).1, 6);
        stop_waits(&systemd);
    }
}

/// S1, S7, S8: the pid file is there when systemd looks, and names who serves when the old one exits. systemd trusts it where it is
/// another user's as well, as long as it names a process of the unit.
#[test]
fn s7_a_forking_unit_follows_the_pid_file() {
    let lines = "Type=forking\nPIDFile=/run/echo/echo.pid\nExecReload=/usr/local/bin/tableflip upgrade /run/echo/echo.pid";
    for it in World::each() {
        let unit = service(lines).replace(
            "ExecStart=/usr/local/bin/echo-service",
            "ExecStart=/bin/sh -c '/usr/local/bin/echo-service &'",
        );
        let systemd = world(it, &unit).boot();
        systemd.run("systemctl start echo");
        let (_, _, first) = open(&systemd);
        assert_eq!(systemd.main_pid("echo"), first);
        for generation in 2..=4 {
            upgrade(&systemd);
            let (_, now, pid) = open(&systemd);
            assert_eq!((now, pid), (generation, systemd.main_pid("echo")));
        }
        // It looks at the file at the end of a reload, while the old one lives.
        let (client, _, _) = open(&systemd);
        systemd.run("systemctl reload echo");
        assert_eq!(open(&systemd).2, systemd.main_pid("echo"));
        client.close();
        find("end of the old one", || (systemd.processes("echo").len() == 1).then_some(()));
        stop_waits(&systemd);
        // S8: whatever a failure has made of the file, the next start is not misled.
        systemd.run("systemctl start echo");
        systemd.run(&format!("kill -KILL {}", systemd.main_pid("echo")));
        systemd.wait_for("echo", "ActiveState", "failed");
        systemd.run("systemctl start echo");
        assert_eq!(open(&systemd).2, systemd.main_pid("echo"));
        stop_waits(&systemd);

        systemd.run(
            "mkdir -p /run/systemd/system/echo.service.d && \
             printf '[Service]\\nUser=nobody\\n' >/run/systemd/system/echo.service.d/a.conf && systemctl daemon-reload",
        );
        systemd.run("systemctl start echo");
        for generation in 2..=3 {
            upgrade(&systemd);
            let (_, now, pid) = open(&systemd);
            assert_eq!((now, pid), (generation, systemd.main_pid("echo")));
        }
        assert_eq!(systemd.run("stat -c %U /run/echo /run/echo/echo.pid"), "nobody\nnobody");
        stop_waits(&systemd);
        let journal = systemd.journal("echo");
        assert!(!journal.contains("unsafe") && !journal.contains("not owned by root"), "{journal}");
    }
}

/// S5: a unit of a type that follows the process which it has started alone, and a parent that stays.
#[test]
fn s5_a_simple_unit_with_a_parent_that_stays() {
    let lines = "Type=exec\nExecReload=/usr/local/bin/tableflip upgrade /run/echo/echo.pid\nEnvironment=TABLEFLIP_SUPERVISE=always\nKillMode=mixed";
    for systemd in boot(&format!("{lines}\nRestart=always")) {
        systemd.run("systemctl start echo");
        served_by(&systemd, 1);
        let main = systemd.main_pid("echo");
        for generation in 2..=3 {
            upgrade(&systemd);
            assert_eq!(open(&systemd).1, generation);
        }
        assert_eq!((systemd.main_pid("echo"), systemd.show("echo", "NRestarts")), (main, "0".to_owned()));
        stop_waits(&systemd);
    }
}

/// Without one it is said at the start, since nothing can be done at the first upgrade any more. A pid file does as well.
#[test]
fn s5_a_simple_unit_without_one_is_told() {
    let lines = "Type=exec\nPIDFile=/run/echo/echo.pid\nExecReload=/usr/local/bin/tableflip upgrade /run/echo/echo.pid";
    for systemd in boot(lines) {
        systemd.run("systemctl start echo");
        let warning = "systemd is not told of upgrades: unless the unit has PIDFile=";
        find("warning", || systemd.journal("echo").contains(warning).then_some(()));
        served_by(&systemd, 1);
        for generation in 2..=3 {
            upgrade(&systemd);
            let (_, now, pid) = open(&systemd);
            assert_eq!((now, pid), (generation, systemd.main_pid("echo")));
        }
        assert_eq!(systemd.journal("echo").matches(warning).count(), 1);
        stop_waits(&systemd);
    }
}

/// A unit whose service is started by another program, with these lines more.
fn wrapped(start: &str, lines: &str) -> String {
    let lines = format!("{NOTIFY}\nNotifyAccess=all\n{lines}");
    service(&lines).replace("ExecStart=/usr/local/bin/echo-service", &format!("ExecStart={start}"))
}

/// A8: the successor would be no child of systemd, which would not wait for it at a stop. It is said at the start, with the
/// remedies, and each of them works.
#[test]
fn a8_a_wrapper_that_stays_is_told_and_the_remedies_work() {
    let warning = |systemd: &Booted| {
        systemd.journal("echo").matches("is between the service manager and this process").count()
    };
    for wrapper in [
        "/bin/sh -c '/usr/local/bin/echo-service; exit $?'",
        "/usr/bin/timeout 3600 /usr/local/bin/echo-service",
    ] {
        for it in World::each() {
            let systemd = world(it, &wrapped(wrapper, "")).boot();
            systemd.run("systemctl start echo");
            let main = systemd.main_pid("echo");
            assert_ne!(open(&systemd).2, main);
            let name = if wrapper.contains("timeout") { "timeout" } else { "sh" };
            let named = format!("process {main} ({name}) is between the service manager and this process");
            assert!(systemd.journal("echo").contains(&named), "{}", systemd.journal("echo"));
            systemd.run("systemctl stop echo");
            assert_eq!(warning(&systemd), 1);

            systemd.run("mkdir -p /run/systemd/system/echo.service.d");
            systemd.run(
                "printf '[Service]\\nEnvironment=TABLEFLIP_SUPERVISE=always\\n' >/run/systemd/system/echo.service.d/a.conf; \
                 systemctl daemon-reload",
            );
            systemd.run("systemctl start echo");
            let main = systemd.main_pid("echo");
            for generation in 2..=4 {
                upgrade(&systemd);
                assert_eq!((open(&systemd).1, systemd.main_pid("echo")), (generation, main));
            }
            assert_eq!(warning(&systemd), 1, "none is due any more");
            stop_waits_for(&systemd, Duration::from_secs(2));
        }
    }
    for it in World::each() {
        let systemd = world(it, &wrapped("/bin/sh -c 'exec /usr/local/bin/echo-service'", "")).boot();
        systemd.run("systemctl start echo");
        for generation in 2..=3 {
            upgrade(&systemd);
            let (_, now, pid) = open(&systemd);
            assert_eq!((now, pid), (generation, systemd.main_pid("echo")));
        }
        assert_eq!(warning(&systemd), 0);
        stop_waits_for(&systemd, Duration::from_secs(2));
    }
}

/// A6: the number of the successor is that of another process to systemd, or of none. With /proc of the namespace and with that of
/// the machine.
#[test]
fn a6_a_manager_outside_of_the_pid_namespace_is_told_no_process() {
    let warning = "the service manager is outside of the PID namespace of this process";
    for proc in ["--mount-proc", ""] {
        for it in World::each() {
            // The shell is the first process of the namespace, and keeps it.
            let start = format!(
                "/usr/bin/unshare --pid --fork --kill-child {proc} /bin/sh -c '/usr/local/bin/echo-service; exec sleep 3600'"
            );
            let systemd = world(it, &wrapped(&start, "Environment=TABLEFLIP_SUPERVISE=never")).boot();
            systemd.run("systemctl start echo");
            let main = systemd.main_pid("echo");
            assert_eq!(open(&systemd).1, 1);
            assert_eq!(systemd.journal("echo").matches(warning).count(), 1, "{}", systemd.journal("echo"));
            let first = systemd.run("pgrep -x echo-service");
            systemd.run(&format!("kill -HUP {first}"));
            served_by(&systemd, 2);
            find("end of the first", || {
                let left = systemd.run("pgrep -x echo-service");
                (!left.lines().any(|pid| pid == first)).then_some(())
            });
            assert_eq!(open(&systemd).1, 2);
            assert_eq!(
                (systemd.main_pid("echo"), systemd.show("echo", "ActiveState")),
                (main, "active".to_owned())
            );
            let journal = systemd.journal("echo");
            assert_eq!(journal.matches(warning).count(), 1, "{journal}");
            assert_quiet(&systemd);
        }
    }
}

/// A unit that may write to its own directory alone, as a user of its own.
#[test]
fn a_user_of_its_own_and_a_file_system_that_is_read_only() {
    let lines = "User=nobody\nProtectSystem=strict\nPrivateTmp=yes\nNoNewPrivileges=yes\nCapabilityBoundingSet=\n\
                 RestrictNamespaces=yes\nSystemCallFilter=@system-service\nMemoryDenyWriteExecute=yes";
    for systemd in boot(&format!("{NOTIFY}\n{lines}")) {
        systemd.run("systemctl start echo");
        for generation in 2..=3 {
            upgrade(&systemd);
            let (_, now, pid) = open(&systemd);
            assert_eq!((now, pid), (generation, systemd.main_pid("echo")));
            assert_eq!(systemd.run(&format!("stat -c %U /proc/{pid}")), "nobody");
        }
        stop_waits(&systemd);
    }
}

/// The watchdog fires when the body hangs, its thread or all others, and not while it is upgraded for longer than that.
#[test]
fn the_watchdog_fires_when_the_body_hangs_and_not_in_an_upgrade() {
    let lines = format!(
        "{NOTIFY}\nWatchdogSec=3s\nRestart=on-failure\nRestartSec=0\nEnvironment=TABLEFLIP_PROBATION=4s"
    );
    for systemd in boot(&lines) {
        systemd.run("systemctl start echo");
        upgrade(&systemd);
        let (_, generation, pid) = open(&systemd);
        assert_eq!((generation, pid), (2, systemd.main_pid("echo")));
        assert_eq!(systemd.show("echo", "NRestarts"), "0");
        for (restarts, hang) in [(1, "hang"), (2, "hang-tasks")] {
            open(&systemd).0.send(hang);
            systemd.wait_for("echo", "NRestarts", &restarts.to_string());
            systemd.wait_for("echo", "ActiveState", "active");
            assert!(systemd.journal("echo").matches("Watchdog timeout").count() >= restarts);
        }
    }
}

/// A drain that takes longer than the unit allows is not cut, as long as it goes on.
#[test]
fn a_drain_asks_for_the_time_that_it_takes() {
    for systemd in boot(&format!("{NOTIFY}\nTimeoutStopSec=3s")) {
        systemd.run("systemctl start echo");
        upgrade(&systemd);
        let (mut client, _, pid) = open(&systemd);
        let stop = begin(&systemd, "systemctl stop echo");
        let begun = Instant::now();
        find("the time of the unit and more", || (begun.elapsed() > Duration::from_secs(4)).then_some(()));
        assert_eq!(client.who().1, pid);
        stop.assert_ends_with(client, &systemd);
    }
}

/// S9: what the successor logs is its own, and still arrives when journald was restarted meanwhile.
#[test]
fn s9_the_journal_knows_who_has_logged() {
    for systemd in boot(NOTIFY) {
        systemd.run("systemctl start echo");
        for generation in 2..=3 {
            upgrade(&systemd);
            let (_, _, pid) = open(&systemd);
            let line = format!("generation {generation} is process {pid}");
            let command =
                format!("journalctl --sync; journalctl -u echo -o cat _PID={pid} | grep -qF '{line}'");
            systemd.run(&command);
            systemd.run("systemctl restart systemd-journald");
        }
        stop_waits(&systemd);
    }
}

/// A stop from within is one as well.
#[test]
fn a_service_that_stops_itself_drains() {
    for systemd in boot(&format!("{NOTIFY}\nRestart=on-failure")) {
        systemd.run("systemctl start echo");
        upgrade(&systemd);
        let (mut client, _, pid) = open(&systemd);
        assert_eq!(client.ask("stop"), "stopping");
        systemd.wait_for("echo", "ActiveState", "deactivating");
        assert_eq!(client.who().1, pid);
        client.close();
        systemd.wait_for("echo", "ActiveState", "inactive");
        assert_stopped(&systemd);
        assert_eq!(systemd.show("echo", "NRestarts"), "0");
    }
}
