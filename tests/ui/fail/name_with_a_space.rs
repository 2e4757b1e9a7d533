#[tableflip::main(name = "my service")]
async fn main() {}
