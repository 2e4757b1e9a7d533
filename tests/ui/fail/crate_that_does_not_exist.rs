#[tableflip::main(crate = ::flip)]
async fn main() {}
