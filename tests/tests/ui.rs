//! What the compiler says about the attribute: `ui/fail` has a file for each message, and `ui/pass` one for each way
//! of writing a service.

use std::collections::BTreeSet;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use processes::is_slow_wanted;
use tests::package;

/// The part that always runs: a mistake in each part of the pipeline, with messages of the macro alone, and services of
/// each flavour. All files take minutes, and most of `ui/fail` have words of the compiler, which change with its version.
const ALWAYS: [&str; 12] = [
    "fail/address_taken_twice",
    "fail/duration_without_a_unit",
    "fail/listener_without_a_parameter",
    "fail/main_that_takes_self",
    "fail/option_set_twice",
    "fail/pidfile_that_is_empty",
    "fail/two_mistakes_two_errors",
    "fail/unknown_option_with_a_near_name",
    "pass/async_body_with_a_managed_listener",
    "pass/blocking_body",
    "pass/every_option_as_a_literal",
    "pass/names_of_the_prelude_shadowed",
];

/// The mistakes that come first when one writes a service from the documentation alone: the file of `ui/fail`, and the words of its
/// error that name the fix.
const NATURAL_MISTAKES: [(&str, &str); 30] = [
    ("address_that_is_a_port", "expected `tcp://HOST:PORT`"),
    ("address_that_is_a_number", "expected an address in quotes, such as \"tcp://127.0.0.1:7000\""),
    ("address_without_a_host", "write `0.0.0.0` or `[::]` for every address of the machine"),
    ("address_with_an_unknown_scheme", "expected one of `tcp`, `udp`, `unix`"),
    ("address_of_a_relative_unix_path", "`unix:///path`"),
    ("address_taken_twice", "this address is already taken by the listener `echo`"),
    ("listen_without_brackets", "expected a list: `listen = [name = \"tcp://HOST:PORT\"]`"),
    ("listen_in_braces", "expected a list: `listen = [name = \"tcp://HOST:PORT\"]`"),
    ("listen_as_a_call", "expected a value: `listen = ...`"),
    ("listen_entry_with_a_colon", "the form is `listen = [name = \"tcp://HOST:PORT\"]`"),
    ("listen_entry_that_is_a_tuple", "expected an entry: `name = \"tcp://HOST:PORT\"`"),
    ("listen_entry_with_a_quoted_name", "expected the name of a parameter"),
    ("listener_without_a_parameter", "add `admin: UnixListener` to the parameters of `main`"),
    ("parameter_and_no_listen_at_all", "declare `listen = ["),
    ("parameter_named_otherwise_than_its_listener", "name the parameter `"),
    ("parameter_that_is_a_reference", "expected the type without `&`"),
    ("parameter_of_a_type_that_is_no_listener", "managed: `TcpListener`"),
    ("tcp_address_taken_as_a_udp_socket", "this type is not for a `tcp://` address"),
    ("only_raw_listeners_without_ready", "take one of them as a managed type"),
    ("listener_for_tasks_in_a_plain_fn", "make the function an `async fn`, or take"),
    ("listener_for_threads_in_an_async_fn", "take the type of the same name of `tableflip::net`"),
    ("main_of_tokio_below", "remove `#[tokio::main]`"),
    ("main_of_tokio_above", "remove the attribute above that starts a runtime"),
    ("handle_under_another_name", "take a handle under its own name, such as `Shutdown`"),
    ("body_that_returns_something_else", "a body returns `()`, a `Result<(), E>`"),
    ("unknown_option_with_a_near_name", "did you mean `pidfile`?"),
    ("comma_missing_between_options", "expected `,`"),
    ("pidfile_without_quotes", "the form is `pidfile = \"...\"`"),
    ("duration_that_is_a_number", "expected a duration such as \"500ms\""),
    ("upgrade_signal_that_stops_the_service", "expected one of \"SIGHUP\""),
];

/// The names of the files of `ui/fail` and `ui/pass` with this extension.
fn names(extension: &str) -> BTreeSet<String> {
    let ui = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui");
    let files =
        ["fail", "pass"].into_iter().flat_map(|folder| fs::read_dir(ui.join(folder)).expect("a folder"));
    let paths = files.map(|file| file.expect("a file").path());
    let paths = paths.filter(|path| path.extension().is_some_and(|it| it == extension));
    let name = |path: PathBuf| {
        let name = path.with_extension("");
        name.strip_prefix(&ui).expect("it is in there").to_str().expect("UTF-8").to_owned()
    };
    paths.map(name).collect()
}

/// The files that run, and what is said about the others.
fn part(all: BTreeSet<String>, is_slow_wanted: bool) -> (BTreeSet<String>, String) {
    let count = all.len();
    if is_slow_wanted {
        return (all, format!("all {count} files are compiled"));
    }
    let part: BTreeSet<_> = all.into_iter().filter(|name| ALWAYS.contains(&&**name)).collect();
    let left_out = count - part.len();
    let said = format!(
        "{left_out} of {count} files are left out: they take minutes, and most have words of the compiler, which change \
         with its version; SLOW_TESTS=1 compiles all"
    );
    (part, said)
}

#[test]
fn ui() {
    let (part, said) = part(names("rs"), is_slow_wanted());
    // Past the capture of the output of tests.
    writeln!(io::stderr(), "ui: {said}").expect("stderr can be written");
    let cases = trybuild::TestCases::new();
    for name in part {
        let file = format!("ui/{name}.rs");
        match name.starts_with("pass/") {
            true => cases.pass(file),
            false => cases.compile_fail(file),
        }
    }
}

#[test]
fn c4_a_small_part_runs_always_and_all_if_wanted() {
    let all = names("rs");
    let (small, said) = part(all.clone(), false);
    assert_eq!(small, ALWAYS.map(str::to_owned).into(), "each of them exists");
    let count = all.len();
    assert!(said.starts_with(&format!("{} of {count} files are left out: ", count - ALWAYS.len())), "{said}");
    assert_eq!(part(all.clone(), true).0, all);
}

/// The part that always runs holds with every compiler.
#[test]
fn c4_the_small_part_has_no_words_of_the_compiler() {
    let ui = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui");
    for name in ALWAYS.iter().filter(|name| name.starts_with("fail/")) {
        let shown = fs::read_to_string(ui.join(name).with_extension("stderr")).expect("a file");
        let words = ["error[", "warning", "note:", "help:"];
        let found: Vec<_> = words.iter().filter(|word| shown.contains(**word)).collect();
        assert!(found.is_empty(), "{name} has {found:?}:\n{shown}");
    }
}

/// A file without its words is not noticed by a run that leaves it out.
#[test]
fn c4_every_failure_has_its_words() {
    let fail = |names: BTreeSet<String>| names.into_iter().filter(|name| name.starts_with("fail/"));
    assert!(fail(names("rs")).eq(fail(names("stderr"))));
}

#[test]
fn thirty_natural_mistakes_have_one_error_each_that_names_the_fix() {
    let ui = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui/fail");
    let mut wrong = Vec::new();
    for (name, fix) in NATURAL_MISTAKES {
        let shown = fs::read_to_string(ui.join(name).with_extension("stderr")).expect("a file");
        let errors = shown.lines().filter(|line| line.starts_with("error")).count();
        if errors != 1 || !shown.contains(fix) {
            wrong.push(format!("{name} has {errors} errors, without {fix:?}?\n{shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let names: BTreeSet<_> = NATURAL_MISTAKES.map(|(name, _)| name).into();
    assert_eq!(names.len(), NATURAL_MISTAKES.len(), "each of them counts once");
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
    build.args([
        "build",
        "--quiet",
        "--locked",
        "--offline",
        "-p",
        "tableflip-macros",
        "--features",
        "tokio",
        "--target-dir",
    ]);
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
    fs::write(&source, services.collect::<String>()).expect("it can be written");
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

/// The file of `ui/without_tokio`, with a `tableflip` of their own that has no features. That takes half a minute.
#[test]
fn d11_a_crate_without_tokio_is_told_the_feature() {
    if !is_slow_wanted() {
        return processes::skip("SLOW_TESTS=1 compiles a tableflip without features");
    }
    let files = package::workspace().join("tests/ui/without_tokio");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let runtime = package::workspace().join("runtime");
    let tableflip = format!("tableflip = {{ path = {runtime:?}, default-features = false }}");
    let main = fs::read_to_string(files.join("async_fn.rs")).expect("a file");
    package::write(dir.path(), "without-tokio", &tableflip, &main);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("without-tokio");
    let mut check = package::cargo(dir.path(), "check", &target);
    let output = check.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error")).collect();
    let expected = fs::read_to_string(files.join("async_fn.stderr")).expect("a file");
    assert_eq!(errors[0], expected.lines().next().expect("a line"), "{said}");
    // The other one is the summary of cargo.
    assert!(errors.len() == 2 && errors[1].starts_with("error: could not compile"), "{said}");
}
