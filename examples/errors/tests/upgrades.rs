//! Services with the errors of anyhow and color-eyre over upgrades: under load, and with a file that a release refuses.

use std::fs;

use load::{Service, Version};

const GOOD: &str = "To be, or not to be - Shakespeare\n";

fn service(program: &str, backtrace: &str) -> Service {
    let command = Service::of(program).listen("http", "tcp://127.0.0.1:0").env("RUST_BACKTRACE", backtrace);
    fs::write(command.path("quotation"), GOOD).expect("it can be written");
    command.start()
}

#[test]
fn no_request_is_lost_with_anyhow() {
    load::http_across_upgrades(service(env!("CARGO_BIN_EXE_anyhow-hello"), "0"), Version::Http1);
}

#[test]
fn no_request_is_lost_with_color_eyre() {
    load::http_across_upgrades(service(env!("CARGO_BIN_EXE_color-eyre-hello"), "0"), Version::Http1);
}

/// The reasons of the upgrades that fail because of the file: by the loader, and by the body. `body` is how the library reports
/// an error with its cause.
fn a_refused_file_is_the_reason(program: &str, body: &str) {
    for backtrace in ["0", "1"] {
        let mut service = service(program, backtrace);
        let quotation = service.path("quotation");
        let reason = |text: Option<&str>| {
            match text {
                Some(text) => fs::write(&quotation, text).expect("it can be written"),
                None => fs::remove_file(&quotation).expect("it is there"),
            }
            let reason = service.refused_upgrade();
            let (reason, process) = reason.rsplit_once("; it was process ").expect("the process");
            assert!(process.bytes().all(|byte| byte.is_ascii_digit()), "{process}");
            reason.to_owned()
        };
        let missing = "the successor could not start: cannot read the file `quotation`: No such file or directory (os error 2)";
        assert_eq!(reason(None), missing);
        assert_eq!(reason(Some("\n")), "the successor could not start: the file `quotation` is empty");
        let refused = format!("the successor could not start: the body returned before it was ready: {body}");
        // The reports may say where the error was made.
        let told = reason(Some("To be - anonymous\n"));
        assert!(told.starts_with(&refused), "{told}\n{refused}");
        assert!(told.len() < refused.len() + 100, "it has a backtrace: {told}");

        fs::write(&quotation, GOOD).expect("it can be written");
        service.upgrade();
        service.stop();
    }
}

#[test]
fn the_errors_of_anyhow_are_the_reason_of_a_failed_upgrade() {
    let body = "the quotation is refused Caused by: `anonymous` is no name";
    a_refused_file_is_the_reason(env!("CARGO_BIN_EXE_anyhow-hello"), body);
}

#[test]
fn the_errors_of_color_eyre_are_the_reason_of_a_failed_upgrade() {
    let body = "0: the quotation is refused 1: `anonymous` is no name";
    a_refused_file_is_the_reason(env!("CARGO_BIN_EXE_color-eyre-hello"), body);
}
