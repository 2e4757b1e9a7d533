#[tableflip::main]
async fn main() -> String {
    String::new()
}
