#[tableflip::main]
extern "C" fn main() {}
