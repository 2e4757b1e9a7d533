#[tableflip::main]
async fn main<T>() {}
