//! The Redis protocol over upgrades under load.

use std::process::{Command, Stdio};

use load::{Lines, Service, have};

fn service() -> Service {
    let command = Service::of(env!("CARGO_BIN_EXE_redis-line")).listen("tcp", "tcp://127.0.0.1:0");
    let socket = command.path("socket");
    command.listen("unix", socket.to_str().expect("temporary directories are UTF-8")).start()
}

#[test]
fn no_command_is_lost_over_tcp() {
    let mut service = service();
    let client = Lines::tcp(service.address("tcp"), "*1\r\n$4\r\nPING\r\n", "+PONG\r\n");
    load::across_upgrades(&mut service, || client.clone());
    service.stop();
}

#[test]
fn no_command_is_lost_over_a_unix_socket() {
    let mut service = service();
    let client = Lines::unix(service.path("socket"), "ECHO over-unix\r\n", "$9\r\nover-unix\r\n");
    load::across_upgrades(&mut service, || client.clone());
    service.stop();
}

/// Its connections are those of the old process to their end, and are served to it.
#[test]
fn redis_benchmark_finishes_on_the_old_process() {
    if !have("redis-benchmark") {
        return;
    }
    let mut service = service();
    let port = service.address("tcp").port().to_string();
    let mut benchmark = Command::new("redis-benchmark");
    benchmark.args(["-h", "127.0.0.1", "-p", &port, "-t", "ping_mbulk", "-c", "20", "-n", "200000", "--csv"]);
    let benchmark = benchmark.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    service.wait_for_connections(20);
    let (mut old, _new) = service.begin_upgrade();
    let output = benchmark.wait_with_output().expect("it is a child");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && text.contains("PING"), "{}: {text}", output.status);
    assert!(!text.contains("Error"), "{text}");
    old.wait_for_the_end();
}
