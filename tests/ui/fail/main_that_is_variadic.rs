#[tableflip::main]
fn main(_: ...) {}
