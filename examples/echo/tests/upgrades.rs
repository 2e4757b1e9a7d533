//! Connections that stay over upgrades under load.

use load::{Lines, Service};

#[test]
fn each_client_keeps_its_connection() {
    let mut service = Service::of(env!("CARGO_BIN_EXE_echo")).listen("echo", "tcp://127.0.0.1:0").start();
    let client = Lines::tcp(service.address("echo"), "hello\n", "hello\n").stays();
    load::across_upgrades(&mut service, || client.clone());
    service.stop();
}
