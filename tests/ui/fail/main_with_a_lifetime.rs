#[tableflip::main]
fn main<'a>() {}
