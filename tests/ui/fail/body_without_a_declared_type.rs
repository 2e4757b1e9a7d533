#[tableflip::main]
async fn main() {
    Ok(())
}
