#[tableflip::main]
async fn main(self) {}
