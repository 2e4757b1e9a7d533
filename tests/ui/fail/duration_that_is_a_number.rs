#[tableflip::main(upgrade_timeout = 60)]
async fn main() {}
