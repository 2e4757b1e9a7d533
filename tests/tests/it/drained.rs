//! What a drain has cut, as `tableflip upgrade` and `tableflip stop` tell it, with and without `--strict`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use crate::harness::Dir;
use crate::program::{Ran, check_json, end, start};

/// Runs the program against a service that the test plays: it reads each of these requests, and answers it with these lines. Then the
/// connection ends.
fn played(dir: &Dir, line: &str, exchanges: &[(&str, &[&str])]) -> Ran {
    let path = dir.join("other.control");
    let socket = UnixListener::bind(&path).unwrap();
    let asking = start(dir, line);
    let (mut stream, _) = socket.accept().unwrap();
    let mut requests = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    for (request, answers) in exchanges {
        assert_eq!(requests.next().unwrap(), format!("{{\"command\":{request}}}"));
        for answer in *answers {
            stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
        }
    }
    drop((stream, requests));
    std::fs::remove_file(path).unwrap();
    end(asking)
}

const STATUS: &str =
    r#"{"reply":"status","protocol":1,"release":"0.1.0","generation":1,"pid":9,"phase":"serving"}"#;
const UPGRADED: &str = concat!(
    r#"{"reply":"upgraded","generation":2,"pid":10,"elapsed_ms":3,"#,
    r#""from":{"version":"1.0.0","executable":null},"to":{"version":"1.1.0","executable":null},"warnings":[]}"#,
);
const NONE: &str = r#"{"reply":"drained","pid":9,"aborted":0,"peers":[]}"#;
const THREE: &str = r#"{"reply":"drained","pid":9,"aborted":3,"peers":["10.0.0.1:5","10.0.0.1:6"]}"#;
const CUT: &str = "3 connections were cut (from 10.0.0.1:5, 10.0.0.1:6 and 1 more)";
const SILENT: &str = "process 9 is gone and did not say whether it cut connections";

#[test]
fn an_upgrade_that_cut_connections_is_6_with_strict() {
    let dir = Dir::new();
    let upgraded = |line: &str, last: &[&str]| {
        let exchanges: [(&str, &[&str]); 3] =
            [("\"status\"", &[STATUS]), ("\"upgrade\"", &[UPGRADED]), ("\"watch\"", last)];
        played(&dir, line, &exchanges)
    };
    let strict = "upgrade --strict other.control";
    assert!(upgraded(strict, &[STATUS, NONE]).done().ends_with("\nprocess 9 is gone\n"));
    let ran = upgraded(strict, &[STATUS, THREE]);
    ran.failed(6, &format!("it is done, but {CUT}"));
    assert!(ran.out.contains("upgraded to generation 2, process 10"), "{}", ran.out);
    // An older release, or a process that was killed.
    upgraded(strict, &[STATUS]).failed(5, SILENT);
    // The line of another process is not the line of this one.
    upgraded(strict, &[&THREE.replace(":9", ":8")]).failed(5, SILENT);

    let lax = "upgrade --wait-drained other.control";
    let ran = upgraded(lax, &[STATUS, THREE]);
    assert!(ran.done().ends_with(&format!("\nprocess 9 is gone\ndrained, {CUT}\n")), "{}", ran.out);
    assert!(upgraded(lax, &[]).done().ends_with("\nprocess 9 is gone\n"));
    let out = upgraded("upgrade --json --strict other.control", &[THREE]).out;
    let (lines, error) = out.trim_end().rsplit_once('\n').unwrap();
    let expected =
        r#"{"aborted":3,"peers":["10.0.0.1:5","10.0.0.1:6"],"pid":9,"reply":"drained","successor":10}"#;
    assert_eq!(lines.lines().last(), Some(expected), "the line of the service is in this one: {out}");
    assert!(error.contains(r#""code":"connections-cut""#), "{out}");
    assert_eq!(check_json("strict", &out), ["upgraded", "drained", "error"]);
}

/// The predecessor tells the process that serves what its drain has cut, and that process has it in its status.
#[test]
fn a_stop_that_cut_connections_is_6_with_strict() {
    let dir = Dir::new();
    let strict = "stop --strict other.control";
    let alone = |line: &str, last: &[&str]| {
        let answers: Vec<_> = [r#"{"reply":"stopping"}"#].iter().chain(last).copied().collect();
        played(&dir, line, &[("\"status\"", &[STATUS]), ("\"stop\"", &answers)])
    };
    assert_eq!(alone(strict, &[NONE]).done(), "process 9 is gone\n");
    alone(strict, &[THREE]).failed(6, &format!("it is done, but {CUT}"));
    alone(strict, &[]).failed(5, SILENT);
    let ran = alone("stop other.control", &[THREE]);
    assert_eq!(ran.done(), format!("process 9 is gone\ndrained, {CUT}\n"));
    let ran = alone("stop --json other.control", &[NONE]);
    assert_eq!(check_json("stop", ran.done()), ["stopping", "stopped"]);
    assert!(ran.out.contains(r#"{"aborted":0,"peers":[],"pid":9,"reply":"stopped"}"#), "{}", ran.out);
    assert!(!alone("stop --json other.control", &[]).done().contains("aborted"), "it is not known");

    let generations =
        r#","generations":[{"generation":1,"pid":8,"open":1},{"generation":2,"pid":9,"open":0}]"#;
    let with = |more: &str| STATUS.replace('}', &format!("{generations}{more}}}"));
    let (before, after) = (
        with(""),
        with(r#","last_drain":{"generation":1,"pid":8,"aborted":1,"peers":["10.0.0.1:7"],"duration_ms":9}"#),
    );
    let both = |statuses: &[&str]| {
        let last: Vec<_> = statuses.iter().copied().chain([NONE]).collect();
        let exchanges: [(&str, &[&str]); 3] =
            [("\"status\"", &[&before]), ("\"stop\"", &[r#"{"reply":"stopping"}"#]), ("\"watch\"", &last)];
        played(&dir, strict, &exchanges)
    };
    both(&[&before, &after]).failed(6, "it is done, but 1 connection was cut (from 10.0.0.1:7)");
    both(&[&before]).failed(5, "process 8 is gone and did not say whether it cut connections");
}

#[test]
fn without_a_control_socket_nobody_knows_it() {
    let dir = Dir::new();
    let (_service, process) = dir.victim().serve();
    for line in ["upgrade --strict pid", "stop --strict pid", "upgrade --verify true pid"] {
        crate::program::run(&dir, line).failed(2, " needs a control socket: a signal cannot say it");
    }
    assert!(!process.has_exited());
}
