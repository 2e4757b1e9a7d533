#[tableflip::main(preflight = " ")]
fn main() {}
