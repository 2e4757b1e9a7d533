#[tableflip::main(crate = tableflip)]
async fn main() {}
