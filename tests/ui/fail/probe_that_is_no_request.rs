#[tableflip::main(probe = "/healthz")]
fn main() {}
