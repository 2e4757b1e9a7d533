#[tableflip::main(probation = "3 parsecs")]
async fn main() {}
