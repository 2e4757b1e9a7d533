#[tableflip::main]
unsafe fn main() {}
