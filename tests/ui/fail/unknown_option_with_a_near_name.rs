#[tableflip::main(pidfle = "/run/a.pid")]
async fn main() {}
