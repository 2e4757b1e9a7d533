//! Parity in processes of their own: what a test inside one process cannot show.

use std::os::unix::ffi::OsStringExt;
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;
use tests::channel::{Channel, listen_at};
use tests::client::Client;

use crate::plain::{Dir, Plain, signal};

/// Go: `TestUpgraderOnOS`. With `upgrade` awaited in a future, and with its blocking twin.
#[test]
fn an_upgrade_on_the_system() {
    for upgrade in ["upgrade", "upgrade-blocking"] {
        let dir = Dir::new();
        // By default it is another one in each process, and the successor would not adopt it.
        let other_talk = format!("unix://{}", dir.join("other").display());
        let (mut plain, old) = Plain::serve(&dir, &[("TABLEFLIP_LISTEN_OTHER_TALK", &other_talk)]);
        let mut client = Client::tcp(old.address);
        for name in ["zaphod", "beeblebrox"] {
            assert_eq!(client.ask(&format!("pass {name}")), "passed");
        }
        let answer = client.ask(upgrade);
        let new = plain.hello();
        assert_eq!(answer, format!("ok 2 {}", new.pid), "{upgrade}");
        assert_ne!(new.pid, old.pid);
        assert_eq!((new.generation, new.address), (2, old.address));
        for name in ["zaphod", "beeblebrox"] {
            assert_eq!(client.ask(&format!("read {name}")), format!("{name} {}", new.pid));
        }
        assert_eq!(Client::tcp(old.address).ask("who"), format!("2 {}", new.pid));
        drop(client);
        assert_eq!(plain.exit().code(), Some(0));
        signal(new.pid, Signal::TERM);
        plain.end();
        assert_eq!(plain.log(), "");
    }
}

/// Go: `TestReadyWritesPIDFile`, `TestWritePidFileWithoutPath`.
#[test]
fn the_pid_file_is_written_when_the_service_is_ready() {
    let dir = Dir::new();
    std::fs::create_dir(dir.join("run")).unwrap();
    for name in ["alone.pid", "run/service.pid", "./run/../dotted.pid"] {
        let (mut plain, old) = Plain::serve(&dir, &[("TABLEFLIP_PIDFILE", name)]);
        assert_eq!(dir.wait_for_pidfile(name), format!("{}\n", old.pid));
        let answer = Client::tcp(old.address).ask("upgrade");
        let new = plain.hello();
        assert_eq!(answer, format!("ok 2 {}", new.pid));
        assert_eq!(dir.pidfile(name), Some(format!("{}\n", new.pid)));
        signal(new.pid, Signal::TERM);
        plain.end();
        assert_eq!(dir.pidfile(name), None);
    }
}

/// Go: `TestArgumentsArePassedCorrectly`, where it is an empty one that matters.
#[test]
fn arguments_are_passed_on() {
    let dir = Dir::new();
    let mut command = dir.command();
    command.args(["", "a b", "--", ""]).arg(std::ffi::OsString::from_vec(b"\xff".to_vec()));
    let mut plain = Plain::start(&dir, command);
    let old = plain.hello();
    let mut client = Client::tcp(old.address);
    let arguments = client.ask("arguments");
    assert_eq!(arguments, r#"["", "a b", "--", "", "\xFF"]"#);
    client.ask("upgrade");
    let new = plain.hello();
    assert_eq!(Client::tcp(new.address).ask("arguments"), arguments);
}

/// Go: `TestParentExit`, where the parent says something that it never says. A real one that does is another program:
/// it is not taken over from, and not served beside.
#[test]
fn a_predecessor_that_sends_garbage_is_noticed() {
    for garbage in [&b"\x01"[..], b"{\"type\":\"commit\"", b"[]", &[0xff; 70_000]] {
        let dir = Dir::new();
        let (listener, _predecessor) = listen_at(env!("CARGO_BIN_EXE_with_channel"), &dir.join("channel"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_with_channel"));
        command.current_dir(dir.path()).env_clear();
        command.arg("channel").arg(dir.join("channel")).arg(env!("CARGO_BIN_EXE_plain"));
        let mut plain = Plain::start(&dir, command);
        let channel = Channel::accept(&listener);
        channel.send(&json!({
            "type": "offer", "protocol": 1, "oldest_protocol": 1, "release": "0.1.0", "generation": 6,
            "pid": std::process::id(), "sockets": 0,
        }));
        assert_eq!(channel.wait_for("hello")["generation"], 7);
        channel.wait_for("prepared");
        channel.send_packet(garbage, &[]);
        let reason = channel.wait_for("failed")["reason"].clone();
        assert!(reason.as_str().unwrap().starts_with("the channel to the predecessor: "), "{reason}");
        assert_eq!(plain.exit().code(), Some(1));
        assert_eq!(plain.log().lines().count(), 1, "{}", plain.log());
        assert_eq!(dir.pidfile("declared.pid"), None);
    }
}
