#[tableflip::main(verify = "")]
fn main() {}
