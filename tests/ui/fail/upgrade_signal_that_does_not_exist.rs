#[tableflip::main(upgrade_signal = "SIGHUB")]
async fn main() {}
