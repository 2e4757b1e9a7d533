#[tableflip::main]
default fn main() {}
