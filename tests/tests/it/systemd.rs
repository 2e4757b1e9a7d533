//! Under a real systemd: the machine's, and a later one.

use crate::harness::Client;
use crate::harness::booted::{Booted, World, until};

/// The port of the service in the unit files.
const PORT: u16 = 7000;

/// A unit for it, with these lines more.
fn service(lines: &str) -> String {
    format!(
        "[Service]\nExecStart=/usr/local/bin/echo-service\nRuntimeDirectory=echo\nEnvironment=TABLEFLIP_PROBATION=100ms\n{lines}\n"
    )
}

const NOTIFY: &str = "Type=notify\nExecReload=/usr/local/bin/ask /run/echo/echo.control upgrade";

fn world(world: World, unit: &str) -> World {
    world
        .program("/usr/local/bin/echo-service", env!("CARGO_BIN_EXE_unit"))
        .program("/usr/local/bin/ask", env!("CARGO_BIN_EXE_ask"))
        .unit("echo.service", unit)
}

fn boot(unit: &str) -> impl Iterator<Item = Booted> {
    let unit = service(unit);
    World::each().into_iter().map(move |it| world(it, &unit).boot())
}

/// A connection, and the generation and process that has accepted it.
fn open(systemd: &Booted) -> (Client, u64, u32) {
    let mut client = systemd.connect(PORT);
    let (generation, pid) = client.who();
    (client, generation, pid)
}

/// No word of systemd that something was not as it should be.
fn assert_quiet(systemd: &Booted) {
    let journal = systemd.journal("echo");
    for complaint in
        ["not our child", "reception only permitted", "Refusing", "refus", "Got notification", "Cannot store"]
    {
        assert!(!journal.contains(complaint), "{journal}");
    }
}

#[test]
fn s4_upgrades_and_then_a_stop_that_waits() {
    for systemd in boot(NOTIFY) {
        systemd.run("systemctl start echo");
        let (_, generation, first) = open(&systemd);
        assert_eq!((generation, first), (1, systemd.main_pid("echo")));
        let mut old = first;
        for generation in 2..=4 {
            systemd.run("systemctl reload echo");
            let (_, now, pid) = open(&systemd);
            assert_eq!(now, generation);
            assert_eq!(systemd.main_pid("echo"), pid, "it is the new one at once");
            assert_ne!(pid, old);
            old = pid;
        }
        assert_quiet(&systemd);
        stop_waits(&systemd);
        assert_quiet(&systemd);
    }
}

/// A stop waits for a connection that is open, and leaves nothing.
fn stop_waits(systemd: &Booted) {
    let (mut client, _, pid) = open(systemd);
    let mut stop = systemd.command("systemctl stop echo").spawn().expect("nsenter runs");
    systemd.wait_for("echo", "ActiveState", "deactivating");
    until("draining", || systemd.journal("echo").contains("Stopping").then_some(()));
    assert_eq!(client.who().1, pid);
    assert!(stop.try_wait().unwrap().is_none(), "it waits");
    drop(client);
    assert!(stop.wait().unwrap().success());
    assert_eq!(systemd.show("echo", "ActiveState"), "inactive");
    assert_eq!(systemd.show("echo", "Result"), "success");
    assert_eq!(systemd.processes("echo"), [0_u32; 0]);
}
