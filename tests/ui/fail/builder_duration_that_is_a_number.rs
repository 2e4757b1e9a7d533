fn main() -> std::process::ExitCode {
    tableflip::Service::new().drain_timeout(30).run(|_| Ok(async {}))
}
