#![deny(unused_must_use)]

fn fallible() -> Result<(), String> {
    Ok(())
}

#[tableflip::main]
async fn main() {
    fallible();
}
