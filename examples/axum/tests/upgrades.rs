//! axum over upgrades under load.

use std::process::Command;

use load::{Program, Service, Version, have};

fn service() -> Service {
    Service::of(env!("CARGO_BIN_EXE_axum-hello")).listen("http", "tcp://127.0.0.1:0").start()
}

#[test]
fn no_request_of_http_1_is_lost() {
    load::http_across_upgrades(service(), Version::Http1);
}

#[test]
fn no_request_of_http_2_is_lost() {
    load::http_across_upgrades(service(), Version::Http2);
}

/// The code after `serve` runs in each process, after its last answer.
#[test]
fn every_visit_is_counted_at_the_end_of_its_process() {
    let mut service = service();
    let client = load::Http::new(service.address("http"), Version::Http1);
    let run = load::across_upgrades(&mut service, || client.clone());
    service.stop();
    let log = service.log();
    let counts = log.lines().filter_map(|line| line.strip_suffix(" visits in all")).map(str::parse::<u64>);
    let counts: Vec<_> = counts.map(|count| count.expect("a number")).collect();
    // `stop` upgrades the service once more, or oftener.
    assert!(counts.len() as u32 > run.upgrades, "{log}");
    assert_eq!(counts.iter().sum::<u64>(), run.answered, "{counts:?}");
}

const PROGRAM: Program<'_> = Program { listener: "http", begun: 16 };

#[test]
fn wrk_sees_no_error() {
    if !have("wrk") {
        return;
    }
    let mut service = service();
    let url = format!("http://{}/", service.address("http"));
    let wrk = |times: u32| {
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-c16", &format!("-d{}s", 2 * times), &url]);
        wrk
    };
    PROGRAM.across_upgrades(&mut service, wrk, Service::upgrade_all, |_, text| {
        // It has a line of errors only if there were some.
        assert!(
            text.contains("requests in") && !text.contains("errors") && !text.contains("Non-2xx"),
            "{text}"
        );
    });
    service.stop();
}

/// h2load does not come back after a GOAWAY, and fails by itself what it would send at that very moment: hence the pauses.
#[test]
fn h2load_sees_no_request_fail() {
    if !have("h2load") {
        return;
    }
    let mut service = service();
    let url = format!("http://{}/", service.address("http"));
    let h2load = |times: u32| {
        let mut h2load = Command::new("h2load");
        h2load.args(["-c32", "--rps=10", &format!("-D{}", 2 * times), &url]);
        h2load
    };
    PROGRAM.across_upgrades(&mut service, h2load, Service::upgrade_all, |_, text| {
        assert!(text.contains(" 0 failed, 0 errored, 0 timeout"), "{text}");
    });
    service.stop();
}
