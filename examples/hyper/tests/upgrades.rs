//! hyper over upgrades under load.

use std::process::Command;

use load::{Http, Service, Version, have};

#[test]
fn no_request_is_lost() {
    let mut service =
        Service::of(env!("CARGO_BIN_EXE_hyper-hello")).listen("http", "tcp://127.0.0.1:0").start();
    let http = Http::new(service.address("http"), Version::Http1);
    load::across_upgrades(&mut service, || http.clone());
    service.stop();
}

/// curl, which connects for each of 100 requests, while the service is upgraded; with either version.
#[test]
fn curl_gets_every_answer() {
    if !have("curl") {
        return;
    }
    let mut service =
        Service::of(env!("CARGO_BIN_EXE_hyper-hello")).listen("http", "tcp://127.0.0.1:0").start();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let url = format!("http://{}/?[1-2000]", service.address("http"));
        let arguments = ["--silent", "--show-error", "--fail-early", version, "--output", "/dev/null"];
        let written = ["--write-out", "%{http_code}\n", url.as_str()];
        let curl =
            Command::new("curl").args(arguments).args(written).stdout(std::process::Stdio::piped()).spawn();
        let curl = curl.expect("curl runs");
        service.upgrade();
        service.upgrade();
        let output = curl.wait_with_output().expect("it is a child");
        let answers = String::from_utf8(output.stdout).expect("it is text");
        assert!(output.status.success(), "curl {version}: {}\n{answers}", output.status);
        assert_eq!(answers.lines().filter(|line| *line == "200").count(), 2000);
    }
}
