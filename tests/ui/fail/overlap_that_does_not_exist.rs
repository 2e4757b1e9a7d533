#[tableflip::main(overlap = "waits")]
async fn main() {}
