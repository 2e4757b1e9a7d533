use std::io;

#[tableflip::main]
async fn main() -> io::Result<()> {
    let _ = 1;
}
