//! `tableflip upgrade --report`: the picture of an upgrade, read back as text.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;

use crate::harness::{Dir, Exit};
use crate::program::{check_json, controlled, run};

/// The words of a picture, each once though it has them for wide and for narrow pages.
fn words(dir: &Dir, file: &str) -> BTreeSet<String> {
    let svg = fs::read_to_string(dir.join(file)).expect("the report is written");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    let words = svg.split("</text>").filter_map(|text| text.rsplit('>').next());
    words.map(str::to_owned).collect()
}

/// The first word of each word that begins with this.
fn beginning_with(words: &BTreeSet<String>, start: &str) -> Vec<String> {
    words.iter().filter(|word| word.starts_with(start)).cloned().collect()
}

#[track_caller]
fn assert_has(words: &BTreeSet<String>, starts: &[&str]) {
    for start in starts {
        assert!(!beginning_with(words, start).is_empty(), "{start}: {words:?}");
    }
}

#[test]
fn the_report_shows_the_phases_and_the_open_connections() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let client = service.open(&old);
    // The drain goes on for longer than the report.
    let ran = run(&dir, "upgrade --report a.svg pid");
    let new = service.next_process();
    assert!(ran.done().contains("\nthe report is a.svg: done\n"), "{}", ran.out);
    let shown = words(&dir, "a.svg");
    assert_has(&shown, &["upgrading ", "handing-over ", "standby ", "draining ", "Open connections"]);
    let [draining] = &beginning_with(&shown, "draining ")[..] else { panic!("{shown:?}") };
    assert!(draining.ends_with(" so far"), "{draining}");
    for (generation, pid) in [(1, old.pid()), (2, new.pid())] {
        assert_has(&shown, &[&format!("open in generation {generation} (process {pid})")]);
    }
    let svg = fs::read_to_string(dir.join("a.svg")).unwrap();
    assert_eq!(svg.matches("stroke-linejoin").count(), 2, "a line for each process");
    drop(client);
    assert_eq!(old.exit(), Exit::Status(0));

    // As lines of JSON, and to the end of the drain.
    service.wait(&new, "alone");
    let ran = run(&dir, "upgrade --json --wait-drained --report b.svg pid");
    let replies = check_json("report", ran.done());
    assert_eq!(replies.last().map(String::as_str), Some("report"), "{}", ran.out);
    assert!(ran.out.ends_with("{\"path\":\"b.svg\",\"reply\":\"report\"}\n"), "{}", ran.out);
    assert!(!words(&dir, "b.svg").iter().any(|word| word.ends_with(" so far")));
}

#[test]
fn an_upgrade_that_fails_is_drawn() {
    let dir = Dir::new();
    let command = dir.victim().env("TABLEFLIP_CONTROL", "pid.control").probation("1h");
    let (service, old) = command.serve();
    let ran = run(&dir, "upgrade --verify false --report a.svg pid");
    ran.failed(1, "the successor failed the verification");
    service.assert_serves(&old);
    let shown = words(&dir, "a.svg");
    assert_has(&shown, &["Upgrade of victim: reverted", "standby ", "reverted", "open in generation 1"]);
}

#[test]
fn each_request_of_the_report_is_counted() {
    let dir = Dir::new();
    let command = dir
        .victim()
        .env("TABLEFLIP_CONTROL", "pid.control")
        .listen("http", "tcp://127.0.0.1:0")
        .awaits_shutdown();
    let (service, _old) = command.serve();
    let url = format!("http://{}/", service.address("http"));
    let ran = run(&dir, &format!("upgrade --wait-drained --report a.svg --report-get {url} pid"));
    ran.done();
    let shown = words(&dir, "a.svg");
    assert_has(&shown, &["Requests", "Open connections", "lost: 0"]);
    let [answered] = &beginning_with(&shown, "answered: ")[..] else { panic!("{shown:?}") };
    let answered: u32 = answered["answered: ".len()..].replace(',', "").parse().unwrap();
    // A second before the request, and a second after the drain.
    assert!(answered >= 200, "{answered}");
    assert!(ran.out.contains(&format!("the report is a.svg: {answered} requests, 0 lost\n")), "{}", ran.out);

    // Nothing listens there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let new = service.next_process();
    service.wait(&new, "alone");
    let ran = run(&dir, &format!("upgrade --wait-drained --report b.svg --report-get http://{free}/ pid"));
    ran.done();
    let shown = words(&dir, "b.svg");
    assert_has(&shown, &["answered: 0", "Lost, "]);
    assert!(shown.iter().any(|word| word.ends_with(": Connection refused (os error 111)")), "{shown:?}");
    assert!(!shown.contains("lost: 0"), "{shown:?}");
}

#[test]
fn a_report_that_cannot_be_made_is_an_error_before_the_upgrade() {
    let dir = Dir::new();
    let (service, old) = controlled(&dir);
    let nothing = dir.join("no-directory/a.svg");
    let reason = format!("cannot write the picture {}: No such file or directory", nothing.display());
    run(&dir, &format!("upgrade --report {} pid", nothing.display())).failed(2, &reason);
    let unknown = "upgrade --report a.svg --report-get http://no-host.invalid/ pid";
    run(&dir, unknown).failed(2, "cannot find the host of --report-get http://no-host.invalid/: ");
    for (line, problem) in [
        (
            "upgrade --report a.svg --report-get https://localhost/ pid",
            "`https` is not supported, only plain `http`",
        ),
        ("upgrade --report-get http://localhost/ pid", "--report <FILE.svg>"),
    ] {
        let ran = run(&dir, line);
        assert_eq!(ran.status, 2, "{}", ran.err);
        assert!(ran.err.contains(problem), "{}", ran.err);
    }
    // Nothing is requested, so nothing is drawn.
    run(&dir, "upgrade --if-changed --report a.svg pid").done();
    assert!(!dir.join("a.svg").exists());
    assert!(!service.has_said(&old, "upgrading"), "no upgrade was requested");

    let dir = Dir::new();
    let (_service, _old) = dir.victim().serve();
    run(&dir, "upgrade --report a.svg pid").failed(2, "--report needs a control socket: ");
}
