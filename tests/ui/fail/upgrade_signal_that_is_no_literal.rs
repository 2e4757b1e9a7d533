const SIGNAL: &str = "SIGHUP";

#[tableflip::main(upgrade_signal = SIGNAL)]
async fn main() {}
