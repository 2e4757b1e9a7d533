#[tableflip::main(pidfile = "")]
async fn main() {}
