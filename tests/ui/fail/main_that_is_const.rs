#[tableflip::main]
const fn main() {
    println!("a const fn could not do this");
}
