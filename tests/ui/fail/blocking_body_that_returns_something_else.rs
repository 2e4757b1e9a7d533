#[tableflip::main]
fn main() -> Option<()> {
    None
}
