#[tableflip::main(preflight = 7)]
fn main() {}
