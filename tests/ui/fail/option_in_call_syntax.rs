#[tableflip::main(pidfile("/run/a.pid"))]
async fn main() {}
