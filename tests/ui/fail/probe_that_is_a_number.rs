#[tableflip::main(probe = 200)]
fn main() {}
