//! Units under a real systemd: socket units, descriptors that systemd stores, and the units of docs/systemd.md and of the program
//! `tableflip`. `systemd.rs` has the upgrades and stops of one service.

use std::fs;
use std::path::Path;

use crate::harness::booted::{Booted, World};
use crate::harness::find;
use crate::systemd::{
    NOTIFY, PORT, assert_quiet, assert_stopped, begin, open, served_and_followed, service, stop_waits,
    upgrade, world,
};

/// A parent that stays passes on what it is passed, and keeps none of it.
#[test]
fn a_socket_unit_and_a_parent_that_stays() {
    let lines = "Type=exec\nKillMode=mixed\nEnvironment=TABLEFLIP_SUPERVISE=always\n\
                 ExecReload=/usr/local/bin/tableflip upgrade /run/echo/echo.pid";
    if let Some(it) = World::of_the_machine() {
        let systemd =
            world(it, &service(lines)).unit("echo.socket", "[Socket]\nListenStream=127.0.0.1:7000\n").boot();
        systemd.run("systemctl start echo.socket");
        let (_, generation, pid) = open(&systemd);
        let main = systemd.main_pid("echo");
        assert!(generation == 1 && pid != main);
        // Before that a reload is part of the start.
        systemd.wait_for("echo", "ActiveState", "active");
        upgrade(&systemd);
        assert_eq!((open(&systemd).1, systemd.main_pid("echo")), (2, main));
        let sockets = systemd.run(&format!("readlink /proc/{main}/fd/* | grep -c socket: || true"));
        assert_eq!(sockets, "3", "stdout, stderr and that of the generations");
        systemd.run("systemctl stop echo.socket");
        stop_waits(&systemd);
    }
}

/// The listener is in the hands of systemd when the process is killed: a client that comes meanwhile is answered by the next.
#[test]
fn s10_the_queue_outlives_a_kill_and_a_restart() {
    let lines = format!(
        "{NOTIFY}\nRestart=on-failure\nFileDescriptorStoreMax=8\nEnvironment=FDSTORE=8\nRestartSec=0"
    );
    for it in World::each() {
        let wait = it.shared().join("gate-restart");
        let lines =
            format!("{lines}\nExecStartPre=/bin/sh -c '[ ! -e {0} ] || head -c 1 {0}'", wait.display());
        let systemd = world(it, &service(&lines)).boot();
        systemd.run("systemctl start echo");
        for _ in 0..3 {
            upgrade(&systemd);
        }
        assert_eq!(systemd.show("echo", "NFileDescriptorStore"), "1", "it is kept once");
        let gate = systemd.shared().gate("restart");
        for how in ["systemctl kill -s KILL --kill-who=main echo", "systemctl restart --no-block echo"] {
            let before = systemd.main_pid("echo");
            systemd.run(how);
            systemd.wait_for("echo", "SubState", "start-pre");
            let mut client = systemd.connect(PORT);
            client.send("who");
            gate.open();
            let answer = client.receive().expect("an answer");
            systemd.wait_for("echo", "ActiveState", "active");
            assert_eq!(answer, format!("1 {}", systemd.main_pid("echo")));
            assert_ne!(systemd.main_pid("echo"), before);
            assert_eq!(systemd.show("echo", "NFileDescriptorStore"), "1");
            drop(client);
            upgrade(&systemd);
        }
        assert_quiet(&systemd);
        // A listener that is given up is none that anybody waits at.
        systemd.run("mkdir -p /run/systemd/system/echo.service.d");
        systemd.run(
            "printf '[Service]\\nEnvironment=TABLEFLIP_LISTEN_ECHO=0.0.0.0:7000\\n' >/run/systemd/system/echo.service.d/a.conf; \
             systemctl daemon-reload",
        );
        systemd.run("systemctl restart --no-block echo");
        systemd.wait_for("echo", "SubState", "start-pre");
        gate.open();
        systemd.wait_for("echo", "ActiveState", "active");
        let bound = systemd.run("ss -Hltn sport = :7000 | awk '{print $4}'");
        assert_eq!(bound, "0.0.0.0:7000", "the old one is in the way of nobody");
        // It is handed over after the word that it is ready.
        systemd.wait_for("echo", "NFileDescriptorStore", "1");
    }
}

/// S11: a socket unit, whose service is started by a client, upgraded, killed, restarted, and started again. The unit may start it
/// four times: three clients have it do so, and perhaps the one that comes after the kill, and no upgrade does.
#[test]
fn s11_a_socket_unit_and_upgrades() {
    let socket = "[Socket]\nListenStream=127.0.0.1:7000\nTriggerLimitIntervalSec=1h\nTriggerLimitBurst=4\n";
    for it in World::each() {
        let lines = format!("{NOTIFY}\nRestart=on-failure");
        let systemd = world(it, &service(&lines)).unit("echo.socket", socket).boot();
        systemd.run("systemctl start echo.socket");
        let (_, generation, pid) = open(&systemd);
        assert_eq!((generation, pid), (1, systemd.main_pid("echo")));
        // Before that a reload is part of the start.
        systemd.wait_for("echo", "ActiveState", "active");
        for generation in 2..=4 {
            upgrade(&systemd);
            let (_, now, pid) = open(&systemd);
            assert_eq!((now, pid), (generation, systemd.main_pid("echo")));
        }
        systemd.run("systemctl kill -s KILL --kill-who=main echo");
        assert_eq!(open(&systemd).1, 1, "nobody was refused meanwhile");
        systemd.wait_for("echo", "ActiveState", "active");
        systemd.run("systemctl restart echo");
        upgrade(&systemd);
        // The next clients start it, until the unit has done so four times.
        let mut started = 0;
        while started < 4 && starts_or_is_beyond_the_limit(&systemd) {
            started += 1;
            upgrade(&systemd);
        }
        assert!(
            (2..=3).contains(&started),
            "{started} after the upgrades: the unit has started it for nobody"
        );
        assert_eq!(systemd.show("echo.socket", "Result"), "trigger-limit-hit");
        assert_stopped(&systemd);
    }
}

/// Stops the service; whether a client makes its socket unit start it again, or that one has done so too often.
fn starts_or_is_beyond_the_limit(systemd: &Booted) -> bool {
    systemd.run("systemctl stop echo");
    let _client = systemd.connect(PORT);
    find("start, or limit", || match systemd.show("echo.socket", "Result").as_str() {
        "success" => (systemd.show("echo", "ActiveState") == "active").then_some(true),
        _ => Some(false),
    })
}

/// M4: sockets of two units, in whatever order, are told apart by their names or else their addresses; one that nobody has
/// declared is said.
#[test]
fn m4_sockets_are_matched_by_name_and_else_by_address() {
    for it in World::each() {
        let unit = "[Service]\nExecStart=/usr/local/bin/two-listeners\nType=notify\nSockets=a.socket b.socket c.socket\n";
        let socket = |lines: &str| format!("[Socket]\nService=two.service\n{lines}\n");
        let systemd = it
            .program("/usr/local/bin/two-listeners", env!("CARGO_BIN_EXE_two_listeners"))
            .unit("two.service", unit)
            .unit("a.socket", &socket("ListenStream=127.0.0.1:7002\nFileDescriptorName=second"))
            .unit("b.socket", &socket("ListenStream=127.0.0.1:7001"))
            .unit("c.socket", &socket("ListenStream=127.0.0.1:7003\nFileDescriptorName=third"))
            .boot();
        systemd.run("systemctl start a.socket b.socket c.socket");
        systemd.run("systemctl start two");
        let ask = |port| systemd.connect(port).receive().expect("a line");
        assert_eq!((ask(7001), ask(7002)), ("first".to_owned(), "second".to_owned()));
        let journal = systemd.journal("two");
        assert!(
            journal.contains("socket `third` (tcp://127.0.0.1:7003) of the service manager is not served"),
            "{journal}"
        );
        // One that has a name of ours and another address is a mistake of the unit, which is named.
        systemd.run(
            "systemctl stop two a.socket && sed -i s/7002/7009/ /etc/systemd/system/a.socket && systemctl daemon-reload && \
             systemctl start a.socket",
        );
        assert!(!systemd.try_run("systemctl start two").status.success());
        let journal = systemd.journal("two");
        let mistake = "listener `second`: the socket that was passed by the service manager for tcp://127.0.0.1:7002 is bound elsewhere";
        assert!(journal.contains(mistake), "{journal}");
    }
}

/// The units of docs/systemd.md, by the name in their first line.
fn units_of_the_page() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/systemd.md");
    let page = fs::read_to_string(page).expect("the page");
    let units = page.split("```ini\n# ").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once('\n')?;
        let text = rest.split_once("```")?.0;
        name.contains('.').then(|| (name.to_owned(), text.to_owned()))
    });
    units.collect()
}

#[test]
fn the_units_of_the_page_work_as_they_stand() {
    let units = units_of_the_page();
    assert_eq!(units.len(), 5, "{units:?}");
    for mut it in World::each() {
        for (name, text) in &units {
            // The later ones of the same service are tried one after the other.
            it = it.unit(name, text);
        }
        let systemd = it
            .program("/usr/local/bin/echo-service", env!("CARGO_BIN_EXE_unit"))
            .program("/usr/local/bin/tableflip", env!("CARGO_BIN_EXE_tableflip-program"))
            .boot();
        for (name, text) in units.iter().filter(|(name, _)| name.ends_with(".service")) {
            if text.contains("notify-reload") && systemd.version() < 253 {
                continue;
            }
            // The first is that of the socket unit as well.
            let socket = if name == "echo.service" { "echo.socket" } else { "" };
            for start in [name.as_str(), socket].into_iter().filter(|unit| !unit.is_empty()) {
                systemd.run(&format!("systemctl start {start}"));
                for generation in 2..=3 {
                    let (mut before, now, _) = open(&systemd);
                    assert_eq!(now, generation - 1, "{name}");
                    systemd.wait_for(name, "ActiveState", "active");
                    systemd.run(&format!("systemctl reload {name}"));
                    let (_, now, pid) = open(&systemd);
                    assert_eq!((now, pid), (generation, systemd.main_pid(name)), "{name}");
                    assert_eq!(before.who().0, generation - 1, "{name}");
                    drop(before);
                    find("end of the predecessor", || (systemd.processes(name).len() == 1).then_some(()));
                }
                let (mut client, _, _) = open(&systemd);
                let mut stop = begin(&systemd, &format!("systemctl stop {name}"));
                systemd.wait_for(name, "ActiveState", "deactivating");
                assert!(client.who().0 == 3 && stop.is(), "{name}");
                client.close();
                assert!(stop.succeeds(), "{name}");
                assert_eq!(systemd.show(name, "Result"), "success");
                systemd.run("systemctl stop echo.socket");
            }
        }
    }
}

/// Both kinds of it, as the program prints them for the systemd that it finds, and the first as somebody has to change it who
/// adds `User=`.
#[test]
fn the_unit_that_the_program_prints_works() {
    for it in World::each() {
        let systemd = it
            .program("/srv/echo", env!("CARGO_BIN_EXE_unit"))
            .program("/usr/local/bin/tableflip", env!("CARGO_BIN_EXE_tableflip-program"))
            .boot();
        for (option, change) in [("", ""), ("--notify-reload", ""), ("", "/^PIDFile=/d")] {
            let print = format!("tableflip unit /srv/echo {option} >/etc/systemd/system/echo.service");
            if !option.is_empty() && systemd.version() < 253 {
                assert_eq!(systemd.try_run(&print).status.code(), Some(2), "it says so");
                continue;
            }
            systemd.run(&format!("{print} && sed -i '{change}' /etc/systemd/system/echo.service"));
            systemd.run("systemctl daemon-reload && systemctl start echo");
            assert_eq!(open(&systemd).2, systemd.main_pid("echo"));
            upgrade(&systemd);
            let (_, generation, pid) = open(&systemd);
            assert_eq!((generation, pid), (2, systemd.main_pid("echo")));
            find("listener in the store", || {
                (systemd.show("echo", "NFileDescriptorStore") == "1").then_some(())
            });

            systemd.run("mv /srv/echo /srv/good && cp /bin/false /srv/echo");
            let fails = !systemd.try_run("timeout 20 systemctl reload echo").status.success();
            assert_eq!(fails, option.is_empty(), "whether systemd can be told");
            let status = systemd.show("echo", "StatusText");
            assert!(status.starts_with("generation 2 serves; the last upgrade failed"), "{status}");
            assert_eq!((systemd.main_pid("echo"), open(&systemd).2), (pid, pid));
            systemd.run("rm /srv/echo && mv /srv/good /srv/echo");

            // The death of the new one cuts nothing of what the old one has begun.
            let (mut client, _, _) = open(&systemd);
            systemd.run("systemctl reload echo");
            // systemd, which is told that the reload is over together with whom it follows, may be ahead of the old one, which
            // would go on serving if the new one died before it knew that systemd had heard it.
            find("drain of the old one", || (client.ask("draining") == "true").then_some(()));
            let new = systemd.main_pid("echo");
            open(&systemd).0.send("abort");
            find("end of the new one", || (!systemd.processes("echo").contains(&new)).then_some(()));
            assert_eq!(client.who().1, pid);
            client.close();
            served_and_followed(&systemd);

            // A stop waits for both, whatever is left of each.
            let (mut one, _, old) = open(&systemd);
            systemd.run("systemctl reload echo");
            let (mut two, _, new) = open(&systemd);
            let stop = begin(&systemd, "systemctl stop echo");
            systemd.wait_for("echo", "ActiveState", "deactivating");
            assert_eq!((one.who().1, two.who().1), (old, new));
            two.close();
            assert_eq!(one.who().1, old);
            stop.assert_ends_with(one, &systemd);
        }
    }
}
