#[tableflip::main(upgrade_signal = "usr2")]
async fn main() {}
