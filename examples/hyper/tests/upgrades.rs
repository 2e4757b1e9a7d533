//! hyper over upgrades under load.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use load::{Http, Service, Version, have};

fn service() -> Service {
    Service::of(env!("CARGO_BIN_EXE_hyper-hello")).listen("http", "tcp://127.0.0.1:0").start()
}

#[test]
fn no_request_is_lost() {
    let mut service = service();
    let http = Http::new(service.address("http"), Version::Http1);
    load::across_upgrades(&mut service, || http.clone());
    service.stop();
}

fn curl(arguments: &[&str], url: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail-early",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}\n",
    ]);
    curl.args(arguments).arg(url).stdout(Stdio::piped());
    curl
}

#[test]
fn curl_gets_every_answer_on_one_connection_after_the_other() {
    if !have("curl") {
        return;
    }
    let mut service = service();
    let url = format!("http://{}/?[1-20000]", service.address("http"));
    let child = curl(&["--http1.1"], &url).spawn().expect("curl runs");
    service.wait_for_connections(1);
    service.upgrade();
    service.upgrade();
    let output = child.wait_with_output().expect("it is a child");
    let answers = String::from_utf8(output.stdout).expect("it is text");
    assert!(output.status.success(), "curl: {}", output.status);
    assert_eq!(answers.lines().filter(|line| *line == "200").count(), 20000);
}

/// A connection for each request: curl 7.88, Debian's, cannot use one of prior knowledge again.
#[test]
fn curl_gets_every_answer_over_http_2() {
    if !have("curl") {
        return;
    }
    let mut service = service();
    let url = format!("http://{}/", service.address("http"));
    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let asking = thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            let output = curl(&["--http2-prior-knowledge"], &url).output().expect("curl runs");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "200\n", "curl: {}", output.status);
        }
    });
    for _ in 0..load::upgrades() {
        service.upgrade();
    }
    over.store(true, Ordering::Relaxed);
    asking.join().expect("every request is answered");
}
