//! The program of the library over upgrades under load.

use load::{Lines, Service};

#[test]
fn no_line_is_lost() {
    let mut service =
        Service::of(env!("CARGO_BIN_EXE_library-lines")).listen("lines", "tcp://127.0.0.1:0").start();
    let client = Lines::tcp(service.address("lines"), "hello\n", "olleh\n");
    load::across_upgrades(&mut service, || client.clone());
    service.stop();
}
