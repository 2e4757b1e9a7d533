#[tableflip::main(drain_timeout = 30s)]
async fn main() {}
