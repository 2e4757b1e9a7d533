#[tableflip::main(drain_timeout = Some(1))]
async fn main() {}
