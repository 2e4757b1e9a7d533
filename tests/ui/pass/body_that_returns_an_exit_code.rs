use std::process::ExitCode;

#[tableflip::main]
async fn service() -> ExitCode {
    ExitCode::from(3)
}

#[tableflip::main]
fn other() -> std::io::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        let _: [ExitCode; 2] = [service(), other()];
    }
}
