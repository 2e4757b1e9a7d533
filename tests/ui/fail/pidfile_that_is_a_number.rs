#[tableflip::main(pidfile = 7)]
async fn main() {}
