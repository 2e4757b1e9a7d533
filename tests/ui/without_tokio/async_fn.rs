//! D11: without the feature `tokio` there is no `Service::run`.
#[tableflip::main(pidfile = "/run/name.pid")]
async fn main() {}
