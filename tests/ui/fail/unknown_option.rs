#[tableflip::main(port = 80)]
async fn main() {}
