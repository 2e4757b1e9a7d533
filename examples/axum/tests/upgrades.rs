//! axum over upgrades under load.

use std::process::{Command, Stdio};

use load::{Http, Service, Version, have};

fn service() -> Service {
    Service::of(env!("CARGO_BIN_EXE_axum-hello")).listen("http", "tcp://127.0.0.1:0").start()
}

#[test]
fn no_request_of_http_1_is_lost() {
    let mut service = service();
    let http = Http::new(service.address("http"), Version::Http1);
    load::across_upgrades(&mut service, || http.clone());
    service.stop();
}

#[test]
fn no_request_of_http_2_is_lost() {
    let mut service = service();
    let http = Http::new(service.address("http"), Version::Http2);
    load::across_upgrades(&mut service, || http.clone());
    service.stop();
}

/// Runs a program that prints what it has lost, over two upgrades.
fn output_of(service: &mut Service, mut program: Command) -> String {
    let child = program.stdout(Stdio::piped()).spawn().expect("it runs");
    service.wait_for_connections(16);
    service.upgrade();
    service.upgrade();
    let output = child.wait_with_output().expect("it is a child");
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).expect("it is text")
}

#[test]
fn wrk_sees_no_error() {
    if !have("wrk") {
        return;
    }
    let mut service = service();
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c16", "-d4s"]).arg(format!("http://{}/", service.address("http")));
    let text = output_of(&mut service, wrk);
    // It has a line of errors only if there were some.
    assert!(text.contains("requests in") && !text.contains("errors") && !text.contains("Non-2xx"), "{text}");
}

/// h2load does not come back after a GOAWAY, and fails by itself what it would send at that very moment: hence the pauses.
#[test]
fn h2load_sees_no_request_fail() {
    if !have("h2load") {
        return;
    }
    let mut service = service();
    let mut h2load = Command::new("h2load");
    h2load.args(["-D4", "-c32", "--rps=10"]).arg(format!("http://{}/", service.address("http")));
    let text = output_of(&mut service, h2load);
    assert!(text.contains(" 0 failed, 0 errored, 0 timeout"), "{text}");
}
