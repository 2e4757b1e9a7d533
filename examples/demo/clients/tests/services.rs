//! The demo upgrades each of the examples and loses nothing: it knows their listeners, and what they answer.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use load::have;
use serde_json::{Value, json};

/// The program of an example.
///
/// All packages are built, with their tests, for that gives their dependencies the features which `cargo test --workspace`
/// has given them: it has left next to nothing to build. The demo itself would build each with features of its own.
fn program(package: &str) -> &'static PathBuf {
    static BUILT: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--workspace", "--bins", "--tests", "--message-format=json-render-diagnostics"]);
        cargo.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../../../Cargo.toml")]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let output = cargo.stderr(Stdio::inherit()).output().expect("cargo runs");
        assert!(output.status.success(), "cargo: {}", output.status);
        let messages = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let programs = messages.filter(|message| message["target"]["kind"][0] == "bin");
        // The tests of a program have an executable as well.
        let programs = programs.filter(|message| message["profile"]["test"] == false);
        let named = |message: Value| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, message["executable"].as_str()?.into()))
        };
        programs.filter_map(named).collect()
    });
    built.get(package).unwrap_or_else(|| panic!("{package} is not among the programs: {built:?}"))
}

fn demo(service: &str, package: &str) -> Command {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo-clients"));
    demo.args(["--service", service, "--upgrades", "1", "--rate", "200", "--connections", "16", "--json"]);
    // It is about what is lost, and not about how fast the machine is.
    demo.args(["--patience", "1m"]);
    demo.arg("--binary").arg(program(package));
    demo
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// Services whose connections all move, and whose answers do not say which process gives them. Their requests count for the
/// process that accepted the connection.
const ALL_MOVE: [&str; 4] = ["axum", "hyper", "poem", "websocket"];

/// An upgrade of it, in which each of the two processes answers on new connections and on kept ones.
fn upgrade(service: &str, package: &str) {
    let output = demo(service, package).output().expect("the demo runs");
    assert!(output.status.success(), "{service}: {}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["passed"], &report["lost"]), (&true.into(), &0.into()), "{report}");
    let number = |value: &Value| value.as_u64().expect("a number");
    for row in report["generations"].as_array().expect("a list") {
        let (all, new) = (number(&row["requests"]), number(&row["on_new_connections"]));
        // Every query of DNS counts as one.
        let keeps_none = service == "dns" || ALL_MOVE.contains(&service) && row["generation"] == 2;
        assert!(new > 0 && (all > new || keeps_none), "{service}: {row}");
    }
    assert_eq!(report["generations"].as_array().map(Vec::len), Some(2), "{report}");
    assert_eq!(report["upgrades"][0]["new_generation"], 2, "{report}");
    assert!(report["upgrades"][0]["first_answer"].as_f64() < report["upgrades"][0]["old_gone"].as_f64());
}

#[test]
fn hello() {
    upgrade("hello", "hello");
}

#[test]
fn axum() {
    upgrade("axum", "axum-hello");
}

#[test]
fn hyper() {
    upgrade("hyper", "hyper-hello");
}

#[test]
fn poem() {
    upgrade("poem", "poem-hello");
}

#[test]
fn actix() {
    upgrade("actix", "actix-hello");
}

#[test]
fn tls() {
    if have("openssl") {
        upgrade("tls", "tls");
    }
}

#[test]
fn tonic() {
    upgrade("tonic", "tonic-hello");
}

#[test]
fn websocket() {
    upgrade("websocket", "websocket");
}

#[test]
fn dns() {
    upgrade("dns", "dns");
}

#[test]
fn redis() {
    upgrade("redis", "redis-line");
}

#[test]
fn leader() {
    upgrade("leader", "leader");
}

#[test]
fn threads() {
    upgrade("threads", "threads");
}

#[test]
fn echo() {
    upgrade("echo", "echo");
}

#[test]
fn nginx() {
    if have("nginx") {
        upgrade("nginx", "behind-nginx");
    }
}

/// The demo upgrades `hello` to a release that is bad in this way.
fn deploy_badly(kind: &str, options: &[&str]) -> Value {
    // In the place of cargo: `bad` is built already. Each test has a file of its own.
    let name = format!("cargo-{kind}{}", options.first().unwrap_or(&""));
    let cargo = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let target =
        json!({"reason": "compiler-artifact", "target": {"name": "bad"}, "executable": program("bad")});
    fs::write(&cargo, format!("#!/bin/sh\necho '{target}'\n")).expect("it can be written");
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("it is there");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo-clients"));
    demo.args(["--bad-release", kind, "--rate", "200", "--connections", "16", "--patience", "1m", "--json"]);
    demo.args(options).arg("--binary").arg(program("hello"));
    let output = demo.env("CARGO", cargo).output().expect("the demo runs");
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(output.status.code(), Some(if report["passed"] == true { 0 } else { 1 }), "{}", said(&output));
    assert_eq!(report["problems"], json!([]), "{report}");
    assert_eq!(report["bad_release"]["kind"], kind, "{report}");
    report
}

#[test]
fn a_bad_release_that_crashes_or_hangs_is_noticed_by_no_client() {
    for (kind, reason) in [("crash", "was killed by SIGABRT"), ("hang", "was not ready within 3s")] {
        let report = deploy_badly(kind, &[]);
        assert_eq!((&report["passed"], &report["lost"]), (&true.into(), &0.into()), "{report}");
        let bad = &report["bad_release"];
        assert_eq!((&bad["outcome"], &bad["bad"]), (&"failed".into(), &0.into()), "{report}");
        assert!(bad["reason"].as_str().is_some_and(|text| text.contains(reason)), "{report}");
        assert_eq!(report["generations"].as_array().map(Vec::len), Some(1), "{report}");
    }
}

#[test]
fn a_bad_release_that_nothing_tries_gives_every_client_its_bad_answers() {
    let report = deploy_badly("status-500", &[]);
    let bad = &report["bad_release"];
    assert_eq!((&report["passed"], &bad["outcome"]), (&false.into(), &"upgraded".into()), "{report}");
    // At 200 requests a second some 400 come after the upgrade.
    assert!(bad["bad"].as_u64() >= Some(200) && bad["bad"] == report["lost"], "{report}");
    let counted = report["losses"].as_array().expect("a list").iter().filter(|row| row["count"] != 0);
    assert!(counted.clone().all(|row| row["kind"] == "bad answer") && counted.count() > 0, "{report}");
}

#[test]
fn a_probe_stops_a_bad_release_before_a_client_sees_it() {
    let report = deploy_badly("status-500", &["--probe", "GET /"]);
    let bad = &report["bad_release"];
    assert_eq!((&report["passed"], &bad["outcome"]), (&true.into(), &"failed".into()), "{report}");
    assert_eq!((&bad["probe"], &bad["bad"]), (&"GET /".into(), &0.into()), "{report}");
    assert!(bad["reason"].as_str().is_some_and(|reason| reason.contains("500")), "{report}");
}

#[test]
fn a_command_that_verifies_gives_the_service_back_to_the_old_release() {
    let report = deploy_badly("status-500", &["--verify", "echo no good; exit 1"]);
    let bad = &report["bad_release"];
    assert_eq!(bad["outcome"], "failed", "{report}");
    assert!(bad["reason"].as_str().is_some_and(|reason| reason.contains("no good")), "{report}");
    // The load goes on for two seconds after the outcome: some 400 requests, and the old release answers them.
    let number = |name: &str| bad[name].as_u64().expect("a number");
    assert!(number("requests") - number("bad") >= 200, "{report}");
    assert_eq!(report["generations"].as_array().map(Vec::len), Some(1), "{report}");
}

#[test]
fn a_run_is_drawn_with_a_dot_for_each_request_and_the_phases_of_each_upgrade() {
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join("run.svg");
    let output = demo("hello", "hello").arg("--report").arg(&picture).output().expect("the demo runs");
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let svg = fs::read_to_string(picture).expect("it is written");
    // Without the commas in its numbers.
    let plain = svg.replace(',', "");
    let requests = &report["requests"];
    assert!(plain.contains(&format!(">1 upgrade of hello: {requests} requests 0 lost</title>")), "{report}");
    assert!(plain.contains(&format!(" dots for {requests} requests</text>")), "{report}");
    for row in report["generations"].as_array().expect("a list") {
        assert!(
            svg.contains(&format!(">generation {} (process {}): ", row["generation"], row["pid"])),
            "{row}"
        );
    }
    for phase in ["upgrading", "handing-over", "standby", "draining"] {
        // In the legend, and with its duration at the upgrade.
        assert!(svg.contains(&format!(">{phase}</text>")) && svg.contains(&format!(">{phase} ")), "{phase}");
    }
    assert!(svg.len() < 400_000 && svg.ends_with("</svg>\n"), "{}", svg.len());
}

#[test]
fn a_program_that_is_missing_is_named() {
    for (service, package, missing) in [("tls", "tls", "openssl"), ("nginx", "behind-nginx", "nginx")] {
        let output = demo(service, package).env("PATH", "/nonexistent").output().expect("the demo runs");
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("demo: cannot start {missing}: ")), "{said}");
        assert!(said.ends_with("; is it installed?\n"), "{said}");
    }
}
