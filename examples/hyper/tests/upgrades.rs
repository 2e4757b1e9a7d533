//! hyper over upgrades under load.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use load::{Program, Service, Version, have};

/// That curl sends for an upgrade.
const REQUESTS: u32 = 8000;

fn service() -> Service {
    Service::of(env!("CARGO_BIN_EXE_hyper-hello")).listen("http", "tcp://127.0.0.1:0").start()
}

#[test]
fn no_request_is_lost() {
    load::http_across_upgrades(service(), Version::Http1);
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
    let address = service.address("http");
    let curl = |times: u32| curl(&["--http1.1"], &format!("http://{address}/?[1-{}]", REQUESTS * times));
    let program = Program { listener: "http", begun: 1 };
    program.across_upgrades(&mut service, curl, Service::upgrade_all, |times, answers| {
        let right = answers.lines().filter(|line| *line == "200").count();
        assert_eq!(u32::try_from(right), Ok(REQUESTS * times), "of curl's answers");
    });
    service.stop();
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
    service.upgrade_all();
    over.store(true, Ordering::Relaxed);
    asking.join().expect("every request is answered");
    service.stop();
}
