//! poem over upgrades under load.

use load::{Http, Service, Version};

fn service() -> Service {
    Service::of(env!("CARGO_BIN_EXE_poem-hello")).listen("http", "tcp://127.0.0.1:0").start()
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
