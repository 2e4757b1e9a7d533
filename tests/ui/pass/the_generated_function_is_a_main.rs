#[cfg(any())]
#[tableflip::main]
async fn main() {}

#[cfg(all())]
fn main() {}
