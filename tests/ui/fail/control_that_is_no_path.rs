#[tableflip::main(control = true)]
fn main() {}
