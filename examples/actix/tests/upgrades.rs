//! actix-web over upgrades under load.

use load::{Http, Service, Version};

#[test]
fn no_request_is_lost() {
    let mut service =
        Service::of(env!("CARGO_BIN_EXE_actix-hello")).listen("http", "tcp://127.0.0.1:0").start();
    let http = Http::new(service.address("http"), Version::Http1);
    load::across_upgrades(&mut service, || http.clone());
    service.stop();
}
