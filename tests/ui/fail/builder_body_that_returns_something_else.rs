use std::process::{ExitCode, Termination};
use tableflip::{Service, Shutdown};

struct Status(u8);

impl Termination for Status {
    fn report(self) -> ExitCode {
        ExitCode::from(self.0)
    }
}

fn main() -> ExitCode {
    Service::new().run_blocking(|start| {
        let shutdown: Shutdown = start.handle()?;
        Ok(move || {
            shutdown.wait();
            Status(1)
        })
    })
}
