use std::process::{ExitCode, Termination};

struct Status(u8);

impl Termination for Status {
    fn report(self) -> ExitCode {
        ExitCode::from(self.0)
    }
}

#[tableflip::main]
async fn service() -> impl Termination {
    Status(1)
}

#[tableflip::main]
fn other() -> Status {
    Status(2)
}

fn main() {
    // A test that is run opens no socket.
    if std::env::args().count() > 1000 {
        service();
        other();
    }
}
