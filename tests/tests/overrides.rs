//! The environment: each variable wins over the attribute, and a bad value stops the start with one line that names the variable.

mod plain;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use plain::{Dir, Hello, Plain, fail_to_start, signal};
use rustix::process::Signal;
use tests::client::Client;

/// What each of the tests below changes one of.
#[test]
fn without_them_the_attribute_says_it_all() {
    let dir = Dir::new();
    let (mut plain, old) = Plain::serve(&dir, &[]);
    assert_eq!(dir.wait_for_pidfile("declared.pid"), format!("{}\n", old.pid));
    let mut client = Client::tcp(old.address);
    assert_eq!(client.ask("drain-timeout"), "3540s");
    signal(old.pid, Signal::USR1);
    assert_eq!(plain.hello().generation, 2);
}

#[test]
fn listen() {
    let dir = Dir::new();
    // A port of the kernel's choice, for another process: none gets it again soon.
    let port = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap();
    let path = dir.join("socket");
    let unix = format!("unix://{}?mode=600", path.to_str().unwrap());
    let variables = [
        ("TABLEFLIP_LISTEN_TALK", &*format!("tcp://{port}?nodelay=true")),
        // That of `other_talk`, whose address is not a literal.
        ("TABLEFLIP_LISTEN_OTHER_TALK", &unix),
    ];
    let (mut plain, old) = Plain::serve(&dir, &variables);
    assert_eq!(old.address, port);
    UnixStream::connect(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // A successor has the same environment, and so the same sockets.
    Client::tcp(old.address).ask("upgrade");
    assert_eq!(plain.hello().address, port);
}

#[test]
fn pidfile() {
    let dir = Dir::new();
    fs::create_dir(dir.join("run")).unwrap();
    let absolute = dir.join("absolute.pid");
    for path in [OsStr::new("run/relative.pid"), absolute.as_os_str(), OsStr::from_bytes(b"not\xffutf8")] {
        let mut command = dir.command();
        command.env("TABLEFLIP_PIDFILE", path);
        let mut plain = Plain::start(&dir, command);
        let Hello { pid, .. } = plain.hello();
        assert_eq!(dir.wait_for_pidfile(path), format!("{pid}\n"));
        assert_eq!(dir.pidfile("declared.pid"), None);
        signal(pid, Signal::TERM);
        plain.end();
        assert_eq!(dir.pidfile(path), None);
    }
}

#[test]
fn upgrade_timeout() {
    let dir = Dir::new();
    let (_plain, old) = Plain::serve(&dir, &[("TABLEFLIP_UPGRADE_TIMEOUT", "70ms"), ("PLAIN_MUTE", "1")]);
    let answer = Client::tcp(old.address).ask("upgrade");
    let why = answer.strip_prefix("err the successor was not ready within 70ms: ").expect("it is late");
    // On a machine that is busy the successor may not have come to its first word by then.
    let asked =
        why.starts_with("its body has not asked for a connection of `talk`, `other_talk`; it was process ");
    assert!(asked || why.starts_with("it has not said anything yet"), "{answer}");
    assert_eq!(Client::tcp(old.address).ask("who"), format!("1 {}", old.pid));
}

#[test]
fn probation() {
    let dir = Dir::new();
    let (mut plain, old) = Plain::serve(&dir, &[("TABLEFLIP_PROBATION", "1h 30m")]);
    let (mut first, mut second) = (Client::tcp(old.address), Client::tcp(old.address));
    assert_eq!(second.ask("who"), format!("1 {}", old.pid));
    first.send("upgrade");
    let new = plain.hello();
    // Until it serves the old one does. It is on probation then, which the attribute would have end at once.
    while Client::tcp(new.address).ask("who") != format!("2 {}", new.pid) {}
    assert_eq!(second.ask("upgrade"), "err an upgrade is in progress");
    signal(new.pid, Signal::KILL);
    // A successor may answer a moment before the old one knows that it serves.
    let failed = first.receive().unwrap();
    assert!(failed.starts_with("err the successor was killed by SIGKILL "), "{failed}");
    assert_eq!(Client::tcp(old.address).ask("who"), format!("1 {}", old.pid));
}

#[test]
fn drain_timeout() {
    let dir = Dir::new();
    let (mut plain, old) = Plain::serve(&dir, &[("TABLEFLIP_DRAIN_TIMEOUT", "40ms")]);
    let mut client = Client::tcp(old.address);
    assert_eq!(client.ask("drain-timeout"), "40ms");
    client.ask("hold");
    signal(old.pid, Signal::TERM);
    client.wait_for_the_end();
    plain.end();
    assert_eq!(plain.exit().code(), Some(0));
    assert!(plain.log().contains("not drained within 40ms"), "{}", plain.log());
}

#[test]
fn upgrade_signal() {
    for (name, number) in [
        ("SIGHUP", Signal::HUP),
        ("SIGUSR2", Signal::USR2),
        ("SIGQUIT", Signal::QUIT),
        ("SIGWINCH", Signal::WINCH),
    ] {
        let dir = Dir::new();
        let (mut plain, old) = Plain::serve(&dir, &[("TABLEFLIP_UPGRADE_SIGNAL", name)]);
        signal(old.pid, number);
        let new = plain.hello();
        assert_eq!((new.generation, new.address), (2, old.address), "{name}");
    }
}

#[test]
fn overlap() {
    // The declared one keeps the request until the predecessor is gone.
    for how in [None, Some("refuse"), Some("hasten")] {
        let dir = Dir::new();
        let overlap = how.map(|how| ("TABLEFLIP_OVERLAP", how));
        let variables: Vec<_> = overlap.into_iter().chain([("TABLEFLIP_PROBATION", "0s")]).collect();
        let (mut plain, old) = Plain::serve(&dir, &variables);
        let mut client = Client::tcp(old.address);
        let answer = client.ask("upgrade");
        let second = plain.hello();
        assert_eq!(answer, format!("ok 2 {}", second.pid), "{how:?}");
        // The first drains: it waits for this client, which waits for the third if the first has to hurry.
        if how == Some("refuse") {
            let refused = Client::tcp(old.address).ask("upgrade");
            assert_eq!(refused, "err the predecessor is still draining");
            continue;
        }
        signal(second.pid, Signal::USR1);
        if how.is_none() {
            drop(client);
        }
        let third = plain.hello();
        assert_eq!((third.generation, third.address), (3, old.address), "{how:?}");
    }
}

#[test]
fn control() {
    let dir = Dir::new();
    let absolute = dir.join("absolute");
    let there = |name: &str| fs::symlink_metadata(dir.join(name)).is_ok();
    let absolute = absolute.to_str();
    for (value, name) in [
        (None, "declared.control"),
        (Some("relative"), "relative"),
        (absolute, "absolute"),
        (Some("false"), ""),
    ] {
        let variables: Vec<_> = value.map(|value| ("TABLEFLIP_CONTROL", value)).into_iter().collect();
        let (mut plain, old) = Plain::serve(&dir, &variables);
        for candidate in ["declared.control", "relative", "absolute"] {
            assert_eq!(there(candidate), candidate == name, "{value:?}: {candidate}");
        }
        signal(old.pid, Signal::TERM);
        plain.end();
        assert!(!there(name) || name.is_empty(), "{value:?}: it is removed");
    }
}

/// Nobody has asked for it; the service does without.
#[test]
fn a_pid_file_beside_which_there_can_be_no_socket_is_no_mistake() {
    let dir = Dir::new();
    let long = "long".repeat(40);
    let (mut plain, old) = Plain::serve(&dir, &[("TABLEFLIP_PIDFILE", &long)]);
    assert_eq!(dir.wait_for_pidfile(&long), format!("{}\n", old.pid));
    signal(old.pid, Signal::TERM);
    plain.end();
}

#[test]
fn a_file_where_the_socket_beside_the_pid_file_would_be_is_left_alone() {
    let dir = Dir::new();
    let at = dir.join("declared.control");
    fs::write(&at, "mine").unwrap();
    let (mut plain, old) = Plain::serve(&dir, &[]);
    signal(old.pid, Signal::TERM);
    plain.end();
    assert_eq!(fs::read_to_string(at).unwrap(), "mine");
}

#[test]
fn supervise() {
    let dir = Dir::new();
    let mut command = dir.command();
    command.env("TABLEFLIP_SUPERVISE", "always");
    let mut plain = Plain::start(&dir, command);
    let served = plain.hello();
    assert_ne!(plain.first_pid(), served.pid);
    Client::tcp(served.address).ask("who");
    signal(plain.first_pid(), Signal::USR1);
    assert_eq!(plain.hello().generation, 2);
    signal(plain.first_pid(), Signal::TERM);
    assert_eq!(plain.exit().code(), Some(0));
}

#[test]
fn a_supervise_that_is_none_is_refused() {
    for value in ["", "Always", "true"] {
        refused_as_text("TABLEFLIP_SUPERVISE", value, "expected one of auto, always, never");
    }
}

#[test]
fn preflight() {
    let dir = Dir::new();
    let (_plain, old) = Plain::serve(&dir, &[("TABLEFLIP_PREFLIGHT", "echo no room; exit 1")]);
    let failed = "err the preflight command exited with status 1: no room";
    assert_eq!(Client::tcp(old.address).ask("upgrade"), failed);
}

/// The body is threads that block in accept.
#[test]
fn probe() {
    let dir = Dir::new();
    // By default it is another one in each process, and the successor would not adopt it.
    let other_talk = format!("unix://{}", dir.join("other").display());
    let variables =
        [("TABLEFLIP_PROBE", "talk GET /health"), ("TABLEFLIP_LISTEN_OTHER_TALK", other_talk.as_str())];
    let (mut plain, old) = Plain::serve(&dir, &variables);
    fs::write(dir.join("sick"), "").unwrap();
    let failed =
        "err the successor failed the probe `talk GET /health`: it answered 500 Sick: 2; it was process ";
    let answer = Client::tcp(old.address).ask("upgrade");
    assert!(answer.starts_with(failed), "{answer}");
    let sick = plain.hello();
    assert_eq!(answer, format!("{failed}{}", sick.pid));
    fs::remove_file(dir.join("sick")).unwrap();
    let answer = Client::tcp(old.address).ask("upgrade");
    assert_eq!(answer, format!("ok 2 {}", plain.hello().pid));
}

#[test]
fn verify() {
    let dir = Dir::new();
    let other_talk = format!("unix://{}", dir.join("other").display());
    let command = "test ! -e sick || { echo sick; exit 1; }";
    let variables = [("TABLEFLIP_VERIFY", command), ("TABLEFLIP_LISTEN_OTHER_TALK", other_talk.as_str())];
    let (_plain, old) = Plain::serve(&dir, &variables);
    fs::write(dir.join("sick"), "").unwrap();
    let answer = Client::tcp(old.address).ask("upgrade");
    let failed = "err the successor failed the verification: the command exited with status 1: sick";
    assert!(answer.starts_with(failed), "{answer}");
    assert_eq!(Client::tcp(old.address).ask("who"), format!("1 {}", old.pid));
}

/// Longer than the clock can count. It never ends; it does not end the process.
#[test]
fn a_duration_may_be_longer_than_a_clock_can_count() {
    let dir = Dir::new();
    // By default it is another one in each process, and the successor would not adopt it.
    let other_talk = format!("unix://{}", dir.join("other").display());
    const AGES: &str = "500000000000years";
    let (mut plain, old) = Plain::serve(
        &dir,
        &[
            ("TABLEFLIP_DRAIN_TIMEOUT", AGES),
            ("TABLEFLIP_UPGRADE_TIMEOUT", AGES),
            ("TABLEFLIP_PROBATION", "0s"),
            ("TABLEFLIP_LISTEN_OTHER_TALK", &other_talk),
        ],
    );
    let mut client = Client::tcp(old.address);
    let answer = client.ask("upgrade");
    let new = plain.hello();
    assert_eq!(answer, format!("ok 2 {}", new.pid));
    // It drains, and waits for this connection.
    assert_eq!(client.ask("who"), format!("1 {}", old.pid));
    drop(client);
    assert_eq!(plain.exit().code(), Some(0));
    signal(new.pid, Signal::TERM);
    plain.end();
    assert_eq!(plain.log(), "");
}

/// A value that is no good: exit status 1, and one line that names the variable.
fn refused(variable: impl AsRef<OsStr>, value: impl AsRef<OsStr>, named: &str, problem: &str) {
    let (variable, value) = (variable.as_ref(), value.as_ref());
    let (status, log) = fail_to_start(&[(variable, value)]);
    assert_eq!(status, Some(1), "{variable:?} = {value:?}: {log}");
    assert_eq!(log, format!("tableflip: cannot start: environment variable `{named}`: {problem}\n"));
}

fn refused_as_text(variable: &str, value: &str, problem: &str) {
    refused(variable, value, variable, &format!("`{value}`: {problem}"));
}

#[test]
fn an_address_that_is_none_is_refused() {
    for variable in ["TABLEFLIP_LISTEN_TALK", "TABLEFLIP_LISTEN_OTHER_TALK"] {
        let refused = |value, problem| refused_as_text(variable, value, problem);
        refused(
            "",
            "the address is empty; expected one such as `tcp://127.0.0.1:7000` or `unix:///run/a.sock`",
        );
        refused(
            "tcp://localhost",
            "the port is missing; expected `tcp://HOST:PORT`, with port 0 for any free one",
        );
        refused("tcp://[::1:7000", "the bracket of the IPv6 address is not closed");
        refused("tcp://localhost:65536", "`65536` is not a port; expected a number from 0 to 65535");
        refused(
            "http://localhost:80",
            "unknown scheme `http`; expected one of `tcp`, `udp`, `unix`, `unix-dgram`, `unix-seqpacket`",
        );
        refused("unix:@", "the abstract name after `@` is empty");
        refused(
            "localhost:80?backlog=0",
            "`0` is not a value of the socket option `backlog`; expected a number from 1 to 2147483647",
        );
    }
}

#[test]
fn a_pid_file_that_is_none_is_refused() {
    for path in ["", "/", "..", "run/.."] {
        let variable = "TABLEFLIP_PIDFILE";
        refused(variable, path, variable, &format!("{path:?} does not name a file"));
    }
}

#[test]
fn a_duration_that_is_none_is_refused() {
    for variable in ["TABLEFLIP_UPGRADE_TIMEOUT", "TABLEFLIP_PROBATION", "TABLEFLIP_DRAIN_TIMEOUT"] {
        for (value, problem) in [
            ("", "value was empty"),
            ("30", "time unit needed, for example 30sec or 30ms"),
            ("-1s", "expected number at 0"),
            ("soon", "expected number at 0"),
            (
                "1 fortnight",
                "unknown time unit \"fortnight\", supported units: ns, us/µs, ms, sec, min, hours, days, weeks, months, years (and few variations)",
            ),
            (
                "99999999999999999999s",
                "number is too large or cannot be represented without a lack of precision (values below 1ns are not supported)",
            ),
        ] {
            let problem = format!("not a duration such as `500ms`, `30s` or `2m`: {problem}");
            refused_as_text(variable, value, &problem);
        }
    }
}

#[test]
fn an_upgrade_signal_that_is_none_is_refused() {
    for value in ["", "HUP", "sighup", "SIGKILL", "SIGTERM", "1", " SIGHUP"] {
        let problem = "expected one of SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT, SIGWINCH";
        refused_as_text("TABLEFLIP_UPGRADE_SIGNAL", value, problem);
    }
}

#[test]
fn an_overlap_that_is_none_is_refused() {
    for value in ["", "Wait", "never", " wait"] {
        refused_as_text("TABLEFLIP_OVERLAP", value, "expected one of refuse, wait, hasten");
    }
}

#[test]
fn a_control_socket_that_is_none_is_refused() {
    let variable = "TABLEFLIP_CONTROL";
    refused(variable, "", variable, "it is empty; `false` is for no control socket");
    let not_utf8 = OsStr::from_bytes(b"/run/\xff");
    refused(variable, not_utf8, variable, r#""/run/\xFF" is not UTF-8"#);
    refused(variable, "/run/a?b", variable, "\"/run/a?b\" has a `?`, which begins the options of an address");
    let long = format!("/{}", "long".repeat(40));
    let problem = format!("\"{long}\": the path of a Unix socket has at most 107 bytes, this one has 161");
    refused(variable, &long, variable, &problem);
}

/// A command need not be UTF-8; it has to be one.
#[test]
fn a_preflight_that_is_none_is_refused() {
    let variable = "TABLEFLIP_PREFLIGHT";
    refused(variable, "", variable, "it is empty; `true` checks nothing");
    refused("TABLEFLIP_VERIFY", "", "TABLEFLIP_VERIFY", "it is empty; `true` checks nothing");
}

#[test]
fn a_probe_that_is_none_is_refused() {
    let variable = "TABLEFLIP_PROBE";
    let expected = "expected `GET /path`, with the name of a listener before it or a status after it, such as \
                    `http GET /healthz 204`";
    for value in ["", "/healthz", "POST /healthz", "true"] {
        refused_as_text(variable, value, expected);
    }
    refused(variable, "tlak GET /", variable, "no listener `tlak` is declared (did you mean `talk`?)");
    let dir = Dir::new();
    let (_plain, _hello) = Plain::serve(&dir, &[(variable, "false")]);
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    for variable in [
        "TABLEFLIP_LISTEN_TALK",
        "TABLEFLIP_UPGRADE_TIMEOUT",
        "TABLEFLIP_PROBATION",
        "TABLEFLIP_DRAIN_TIMEOUT",
        "TABLEFLIP_UPGRADE_SIGNAL",
        "TABLEFLIP_OVERLAP",
        "TABLEFLIP_SUPERVISE",
        "TABLEFLIP_PROBE",
    ] {
        let value = OsStr::from_bytes(b"1s\xff");
        refused(variable, value, variable, r#""1s\xFF" is not UTF-8"#);
    }
}

const KNOWN: &str = "; expected one of TABLEFLIP_LISTEN_TALK, TABLEFLIP_LISTEN_OTHER_TALK, TABLEFLIP_UPGRADE_TIMEOUT, \
                     TABLEFLIP_PROBATION, TABLEFLIP_DRAIN_TIMEOUT, TABLEFLIP_UPGRADE_SIGNAL, TABLEFLIP_OVERLAP, \
                     TABLEFLIP_SUPERVISE, TABLEFLIP_PIDFILE, TABLEFLIP_CONTROL, TABLEFLIP_PREFLIGHT, TABLEFLIP_VERIFY, TABLEFLIP_PROBE";

/// Whoever sets a variable means something by it; a letter that is wrong is not passed over.
#[test]
fn d7_an_unknown_variable_is_refused() {
    let refused = |variable: OsString, shown: &str, meant: &str| {
        let meant = if meant.is_empty() { String::new() } else { format!(" (did you mean `{meant}`?)") };
        refused(variable, "", shown, &format!("unknown{meant}{KNOWN}"));
    };
    for variable in [
        "TABLEFLIP_X",
        "TABLEFLIP_",
        "TABLEFLIP_LISTEN",
        "TABLEFLIP_LISTEN_",
        "TABLEFLIP_LISTEN_<NAME>",
        "TABLEFLIP_LISTEN_NOBODY",
    ] {
        refused(variable.into(), variable, "");
    }
    for (variable, meant) in [
        ("TABLEFLIP_PID_FILE", "TABLEFLIP_PIDFILE"),
        ("TABLEFLIP_LISTEN_talk", "TABLEFLIP_LISTEN_TALK"),
        ("TABLEFLIP_pidfile", "TABLEFLIP_PIDFILE"),
        ("TABLEFLIP_LISTEN_TAKL", "TABLEFLIP_LISTEN_TALK"),
        ("TABLEFLIP_LISTEN_OTHER-TALK", "TABLEFLIP_LISTEN_OTHER_TALK"),
        ("TABLEFLIP_LISTEN_OTHERTALK", "TABLEFLIP_LISTEN_OTHER_TALK"),
        ("TABLEFLIP_TALK", "TABLEFLIP_LISTEN_TALK"),
        ("TABLEFLIP_LISTENER_TALK", "TABLEFLIP_LISTEN_TALK"),
        ("TABLEFLIP_LISTENTALK", "TABLEFLIP_LISTEN_TALK"),
    ] {
        refused(variable.into(), variable, meant);
    }
    let garbled = OsString::from(OsStr::from_bytes(b"TABLEFLIP_\xff"));
    refused(garbled, "TABLEFLIP_\u{fffd}", "");
}

/// A Service of Kubernetes that is called `tableflip`, or begins so, sets them in every container of its namespace.
#[test]
fn b5_the_variables_of_an_orchestrator_are_left_alone() {
    let dir = Dir::new();
    let (mut plain, old) = Plain::serve(
        &dir,
        &[
            ("TABLEFLIP_SERVICE_HOST", "10.43.0.7"),
            ("TABLEFLIP_SERVICE_PORT", "80"),
            ("TABLEFLIP_SERVICE_PORT_WEB_UI", "80"),
            ("TABLEFLIP_PORT", "tcp://10.43.0.7:80"),
            ("TABLEFLIP_PORT_80_TCP", "tcp://10.43.0.7:80"),
            ("TABLEFLIP_PORT_80_TCP_PROTO", "tcp"),
            ("TABLEFLIP_PORT_80_TCP_PORT", "80"),
            ("TABLEFLIP_PORT_80_TCP_ADDR", "10.43.0.7"),
            ("TABLEFLIP_ECHO_PORT_53_UDP", "udp://[fd00::7]:53"),
            ("TABLEFLIP_ECHO_SERVICE_HOST", "fd00::7"),
            ("TABLEFLIP_MY_PORT_PORT_1_SCTP", "sctp://10.43.0.8:1"),
        ],
    );
    assert!(Client::tcp(old.address).ask("upgrade").starts_with("ok 2 "), "{}", plain.log());
    let new = plain.hello();
    plain.end();
    signal(new.pid, Signal::TERM);
    plain.end();
}

/// Only the form of these variables is passed over.
#[test]
fn b5_a_variable_that_looks_like_one_of_an_orchestrator_is_refused() {
    for (variable, value) in [
        ("TABLEFLIP_PORT", "8080"),
        ("TABLEFLIP_PORT", "tcp://0.0.0.0:80"),
        ("TABLEFLIP_PORT", "tcp://localhost:80"),
        ("TABLEFLIP_LISTEN_PORT", "tcp://127.0.0.1:80"),
        ("TABLEFLIP_SERVICE_HOST", "example.com"),
        ("TABLEFLIP_SERVICE_PORT", "http"),
        ("TABLEFLIP_PORT_80_TCP", "udp://10.43.0.7:80"),
        ("TABLEFLIP_PORT_80_TCP", "tcp://10.43.0.7:81"),
        ("TABLEFLIP_PORT_80_TCP_X", "80"),
        ("TABLEFLIP_PORT_HTTP_TCP", "tcp://10.43.0.7:80"),
    ] {
        refused(variable, value, variable, &format!("unknown{KNOWN}"));
    }
}

/// What a value has in it cannot look like a line of somebody else, or clear a terminal.
#[test]
fn a_value_with_line_breaks_is_refused_in_one_line() {
    for variable in
        ["TABLEFLIP_LISTEN_TALK", "TABLEFLIP_PROBATION", "TABLEFLIP_UPGRADE_SIGNAL", "TABLEFLIP_PIDFILE"]
    {
        let (status, log) = fail_to_start(&[(variable, "a\n\x1b[31m/..")]);
        assert_eq!((status, log.lines().count()), (Some(1), 1), "{log}");
        assert!(log.contains(variable) && !log.trim_end().contains(char::is_control), "{log:?}");
    }
}

/// Those of others are theirs.
#[test]
fn other_variables_are_left_alone() {
    let dir = Dir::new();
    let (mut plain, old) =
        Plain::serve(&dir, &[("TABLEFLIPPER", "x"), ("tableflip_x", "x"), ("X_TABLEFLIP_X", "x")]);
    signal(old.pid, Signal::TERM);
    plain.end();
    assert_eq!(plain.log(), "");
}

/// Two that are no good: one line all the same.
#[test]
fn one_line_is_said_of_several_mistakes() {
    let (status, log) = fail_to_start(&[("TABLEFLIP_PROBATION", "soon"), ("TABLEFLIP_X", "x")]);
    assert_eq!((status, log.lines().count()), (Some(1), 1), "{log}");
}

/// What cannot be used although it parses is said in one line as well.
#[test]
fn an_address_that_cannot_be_bound_stops_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", taken.local_addr().unwrap());
    let (status, log) = fail_to_start(&[("TABLEFLIP_LISTEN_TALK", &address)]);
    let expected = format!(
        "tableflip: cannot start: listener `talk`: cannot bind {address}: Address already in use (os error 98): process {} (",
        std::process::id(),
    );
    assert!(status == Some(1) && log.starts_with(&expected) && log.lines().count() == 1, "{log}");
    let (status, log) = fail_to_start(&[("TABLEFLIP_LISTEN_TALK", "udp://127.0.0.1:0")]);
    let expected =
        "tableflip: cannot start: listener `talk`: udp://127.0.0.1:0 is taken as a type for tcp://\n";
    assert_eq!((status, &*log), (Some(1), expected));
    let (status, log) = fail_to_start(&[("TABLEFLIP_PIDFILE", "missing/pid")]);
    assert_eq!((status, log.lines().count()), (Some(1), 1), "{log}");
    assert!(log.contains("cannot write the pid file") && log.contains("missing/pid"), "{log}");
}
