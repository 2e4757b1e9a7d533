#[tableflip::main(supervise = true)]
async fn main() {}
