#[tableflip::main(pidfile = "/run/a.pid", pidfile = "/run/b.pid")]
async fn main() {}
