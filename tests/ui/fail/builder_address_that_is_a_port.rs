fn main() -> std::process::ExitCode {
    tableflip::Service::new().listen("http", 8080).run(|_| Ok(async {}))
}
