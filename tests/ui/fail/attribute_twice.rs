#[tableflip::main]
#[tableflip::main(pidfile = "/run/name.pid")]
async fn main() {}
