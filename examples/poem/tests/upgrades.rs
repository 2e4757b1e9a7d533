//! poem over upgrades under load.

use load::{Service, Version};

fn service() -> Service {
    Service::of(env!("CARGO_BIN_EXE_poem-hello")).listen("http", "tcp://127.0.0.1:0").start()
}

#[test]
fn no_request_of_http_1_is_lost() {
    load::http_across_upgrades(service(), Version::Http1);
}

#[test]
fn no_request_of_http_2_is_lost() {
    load::http_across_upgrades(service(), Version::Http2);
}
