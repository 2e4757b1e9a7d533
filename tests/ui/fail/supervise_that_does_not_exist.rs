#[tableflip::main(supervise = "allways")]
fn main() {}
