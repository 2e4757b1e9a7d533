#[tableflip::main(probation = "3 s s")]
async fn main() -> std::process::ExitCode {
    0
}
