#[derive(Debug)]
struct Failed;

#[tableflip::main]
async fn service() -> Result<(), Failed> {
    Err(Failed)?;
    Ok(())
}

#[tableflip::main]
fn boxed() -> Result<(), Box<dyn std::error::Error>> {
    "7".parse::<u8>()?;
    Ok(())
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
        boxed();
    }
}
