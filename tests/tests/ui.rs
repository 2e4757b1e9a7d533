//! What the compiler says about the attribute: `ui/fail` has a file for each message, and `ui/pass` one for each way
//! of writing a service.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::Path;
use std::process::Command;

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    cases.compile_fail("ui/fail/*.rs");
}

fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]);
    command
}

/// The files of `ui/fail` have the whole of a literal underlined: a stable compiler tells no places in it.
#[test]
fn a_nightly_compiler_shows_the_part_of_a_literal_that_is_wrong() {
    let there_is = nightly("rustc").arg("--version").output();
    if !there_is.is_ok_and(|output| output.status.success()) {
        return processes::skip("there is no nightly compiler");
    }
    // What the crate needs is there, for it has been built.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nightly");
    let mut build = nightly("cargo");
    build.args(["build", "--quiet", "--locked", "--offline", "-p", "tableflip-macros", "--target-dir"]);
    assert!(build.arg(&target).status().expect("it runs").success(), "it is built");
    let attribute = target.join(format!("debug/{DLL_PREFIX}tableflip_macros{DLL_SUFFIX}"));
    let options = [
        (r#"listen = [echo = "tcp://127.0.0.1:70000"]"#, "70000"),
        (r##"listen = [echo = r#"http://127.0.0.1:80?backlog=1"#]"##, "http"),
        (r#"listen = [echo = "127.0.0.1:80?backlog=many&nodelay=1"]"#, "many"),
        (r#"listen = [echo = "127.0.0.1:81"], probation = "7 parsecs""#, "parsecs"),
        (r#"listen = [echo = "127.0.0.1:82"], probation = "1s!""#, "!"),
        // With an escape in it a place in the value is none in the literal.
        (r#"listen = [echo = "127.0.0.1:\x37\x300000"]"#, r#""127.0.0.1:\x37\x300000""#),
        // Nothing has no place of its own.
        (r#"listen = [echo = "127.0.0.1:83"], probation = """#, r#""""#),
    ];
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("main.rs");
    let services = options.iter().enumerate().map(|(number, (options, _))| {
        format!("#[tableflip_macros::main({options})]\nasync fn service_{number}(echo: TcpListener) {{}}\n")
    });
    std::fs::write(&source, services.collect::<String>()).expect("it can be written");
    let mut compile = nightly("rustc");
    compile.args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--color=never", "--out-dir"]);
    compile.arg(dir.path()).arg("--extern").arg(format!("tableflip_macros={}", attribute.display()));
    let output = compile.arg(&source).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = said.lines().collect();
    for (options, part) in options {
        let shown = lines.iter().position(|line| line.contains(options));
        let shown = shown.unwrap_or_else(|| panic!("no error for {options}: {said}"));
        let (line, carets) = (lines[shown], lines[shown + 1]);
        let at = carets.find('^').expect("it is underlined");
        assert_eq!(&line[at..at + carets.matches('^').count()], part, "{said}");
    }
}
