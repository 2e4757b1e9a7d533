//! `docs/reference.md` is complete: what the sources have, it has. Its examples are compiled by the documentation of this
//! package, see `src/lib.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn reference() -> String {
    read("docs/reference.md")
}

/// What stands between the first `start` and the next `end`.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("there is no {start:?}"));
    rest.split_once(end).unwrap_or_else(|| panic!("there is no {end:?}")).0
}

/// The options of the attribute.
fn options() -> Vec<String> {
    rows("macros/src/valid/options.rs", "OPTIONS")
}

/// The names in the rows `("name", ...)` of a table of the macro.
fn rows(file: &str, table: &str) -> Vec<String> {
    let source = read(file);
    let rows = between(&source, &format!("const {table}: "), "];").lines();
    let rows: Vec<_> = rows
        .filter_map(|line| Some(line.trim().strip_prefix("(\"")?.split_once('"')?.0.to_owned()))
        .collect();
    assert!(!rows.is_empty(), "{table}");
    rows
}

#[test]
fn every_option_is_described() {
    let reference = reference();
    let options = between(&reference, "## Options", "## Addresses");
    let builder = between(options, "### All of them, by the builder", "`Service::run_blocking`");
    for option in self::options() {
        assert!(options.contains(&format!("\n| `{option}` |")), "no row of `{option}`");
        let headings: Vec<_> = options.lines().filter(|line| line.starts_with("### ")).collect();
        assert!(
            headings.iter().any(|heading| heading.contains(&format!("`{option}`"))),
            "no part on `{option}`"
        );
        let example = format!("{option} = ");
        assert!(options.contains(&example), "no example of `{option}`");
        // The builder is the runtime crate's, and need not be told where that is. Its configuration is there before it is.
        if option != "crate" && option != "config" {
            assert!(
                builder.contains(&format!("        .{option}(")),
                "the builder is not shown to have `{option}`"
            );
        }
    }
}

#[test]
fn every_handle_is_described() {
    let reference = reference();
    let types = between(&reference, "### Handles", "## Environment");
    for name in rows("macros/src/types.rs", "HANDLES") {
        assert!(types.contains(&format!("\n| `{name}` |")), "no row of `{name}`");
        assert!(types.contains(&format!(": {name},")), "no example of `{name}`");
    }
}

/// Every type of the crate that can be taken as a listener.
#[test]
fn every_type_of_a_listener_is_described() {
    let reference = reference();
    let types = between(&reference, "### Listeners", "### Handles");
    let params = read("runtime/src/between/params.rs");
    let tables = ["\nraw_std! {", "\nraw_tokio! {"].into_iter().flat_map(|table| params.split(table).skip(1));
    let rows = tables.flat_map(|table| table.lines().take_while(|line| *line != "}"));
    let raw: Vec<_> = rows.filter_map(|row| row.trim().split_once(": ")).collect();
    assert_eq!(raw.len(), 8);
    let raw = raw.into_iter().map(|(name, _)| name.to_owned());
    let managed = ["net/listener.rs", "net/datagram.rs", "blocking/listener.rs", "blocking/datagram.rs"];
    let managed = managed.into_iter().flat_map(|file| {
        let source = read(format!("runtime/src/{file}"));
        let module = file.split_once('/').unwrap().0.to_owned();
        let calls: Vec<_> = source.split("\nmanaged! {").skip(1).map(str::to_owned).collect();
        assert_eq!(calls.len(), 2, "{file}");
        calls.into_iter().map(move |call| {
            let row = call.lines().find(|line| !line.trim().is_empty() && !line.trim().starts_with("///"));
            format!("tableflip::{module}::{}", row.unwrap().trim().split_once(',').unwrap().0)
        })
    });
    for name in raw.chain(managed).chain(["std::os::fd::OwnedFd".to_owned()]) {
        assert!(types.contains(&format!("`{name}`")), "`{name}` is missing");
    }
}

#[test]
fn every_key_of_an_address_is_described() {
    let reference = reference();
    let addresses = between(&reference, "## Addresses", "## Parameters");
    let source = read("runtime/src/base/address.rs");
    let rows = between(&source, "\noption_rows! {\n", "\n}").lines();
    let keys: Vec<_> = rows.map(|row| row.trim().split_once(':').expect("a row").0).collect();
    assert!(keys.len() >= 13, "{keys:?}");
    for key in keys {
        assert!(addresses.contains(&format!("\n| `{key}` |")), "no row of `{key}`");
        let example =
            addresses.split(['?', '&', ' ', '\n', '"']).any(|part| part.starts_with(&format!("{key}=")));
        assert!(example, "no example of `{key}`");
    }
    for scheme in ["tcp", "udp", "unix", "unix-dgram", "unix-seqpacket"] {
        assert!(source.contains(&format!("=> \"{scheme}\"")));
        assert!(addresses.contains(&format!("\n| `{scheme}:")), "no row of `{scheme}`");
    }
}

#[test]
fn every_variable_is_described() {
    let reference = reference();
    let described = between(&reference, "## Environment", "## Messages of the compiler");
    let mut variables = BTreeSet::new();
    for file in sources() {
        for (at, _) in read(&file).match_indices("TABLEFLIP_") {
            let text = read(&file);
            let name: String =
                text[at..].chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            // The prefixes, and what is put together of them.
            if !name.ends_with('_') {
                variables.insert(name);
            }
        }
    }
    // An option is called like its variable; these are put together at run time.
    let has_none = ["name", "config", "listen", "flavor", "worker_threads", "runtime", "crate"];
    let options = options().into_iter().filter(|option| !has_none.contains(&&**option));
    variables.extend(options.map(|option| format!("TABLEFLIP_{}", option.to_uppercase())));
    assert!(variables.len() >= 6, "{variables:?}");
    for variable in variables {
        assert!(described.contains(&format!("\n| `{variable}` |")), "no row of `{variable}`");
    }
    assert!(described.contains("\n| `TABLEFLIP_LISTEN_<NAME>` |"));
}

/// Every source file of the two crates, without the tests in files of their own.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("runtime/src"), PathBuf::from("macros/src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root().join(&directory)).unwrap() {
            let entry = entry.unwrap();
            let path = directory.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
            {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn every_message_of_the_protocol_is_described() {
    let protocol = read("docs/protocol.md");
    let source = read("runtime/src/outside/handover/message.rs");
    let variants = between(&source, "pub(crate) enum Message {\n", "\n}").lines();
    let names: Vec<_> = variants
        .filter_map(|line| {
            line.strip_prefix("    ").filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        })
        .map(|line| kebab(line.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default()))
        .collect();
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        assert!(protocol.contains(&format!("`{name}`")), "`{name}` is missing");
    }
}

fn kebab(variant: &str) -> String {
    let parts = variant.chars().enumerate().flat_map(|(at, c)| {
        let hyphen = (at > 0 && c.is_ascii_uppercase()).then_some('-');
        hyphen.into_iter().chain([c.to_ascii_lowercase()])
    });
    parts.collect()
}

/// The program `tableflip`, which talks to its operator and has no log.
const PROGRAM: &[&str] = &["runtime/src/bin", "runtime/src/program", "runtime/src/program.rs"];

/// Every line has the generation and the process ID, and a failure reaches stderr, because one file sees to it.
#[test]
fn the_runtime_says_nothing_past_its_report() {
    let library = sources()
        .into_iter()
        .filter(|path| path.starts_with("runtime/src") && !PROGRAM.iter().any(|it| path.starts_with(it)));
    for file in library.filter(|path| !path.ends_with("report.rs")) {
        let source = read(&file);
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for way in ["tracing::", "eprint", "stderr()"] {
                assert!(!line.contains(way), "{}: {line}", file.display());
            }
        }
    }
}

/// Source files whose texts are another page's, or nobody's: those of the program are in `docs/operations.md`, see below, and
/// these of the life cycle and the models are tests.
const NOT_READ: &[&str] = &[
    "runtime/src/bin",
    "runtime/src/program",
    "runtime/src/program.rs",
    "runtime/src/lifecycle/model",
    "runtime/src/lifecycle/model.rs",
    "runtime/src/lifecycle/moving/model",
    "runtime/src/lifecycle/moving/model.rs",
    "runtime/src/lifecycle/table",
    "runtime/src/lifecycle/table.rs",
    "runtime/src/between/models.rs",
    // The program alone says it: `every_reason_is_in_the_operations`.
    "runtime/src/outside/proof.rs",
    "runtime/src/sys/proc.rs",
];

/// Texts of the sources that nobody outside reads, or that are described in other words: events of the log that tell of no
/// mistake, what a service manager and a metrics server are told, reasons of lints and of `expect`, and what is said in a test.
const NOT_DESCRIBED: &[&str] = &[
    "# HELP tableflip_{name} {help}\n# TYPE tableflip_{name} {kind}",
    "1 for the process that was started first.",
    "Connections and datagrams that it has taken.",
    "Connections and guards that are open in each process of the service.",
    "Connections and guards that are open in it.",
    "Connections in the queue of a listener.",
    "Connections that the queue of a listener has room for.",
    "MAINPID={pid}\nREADY=1\nSTATUS=generation {generation} serves{sign}",
    "PRI * HTTP/2.0r\nr\nSMr\nr\n",
    "READY=1\nSTATUS=generation {generation} serves{failure}",
    "STOPPING=1\nSTATUS=stopping; {open} connections are open",
    "Seconds since the process began to serve.",
    "Seconds since the process started.",
    "The process that answers.",
    "Upgrades of it that failed.",
    "Connections that it took from its predecessor.",
    "Connections that it was offered and did not take.",
    "Connections that it gave to its successor.",
    "Connections that it offered and kept.",
    "Upgrades of the service.",
    "Upgrades that it refused.",
    "Whether its predecessor lives.",
    "Whether its successor lives.",
    "tableflip_{name}{labels} {value}",
    "; the last upgrade failed: {}",
    "asked to revert",
    "only the program sends such requests",
    "the successor is to give the service back",
    "the predecessor is to serve again",
    "every request is refused",
    "1, with the releases of the service and of tableflip as labels.",
    "1 for the phase of the process that answers, 0 for the others.",
    "Upgrades by outcome: `upgraded` of the service, the others of this process.",
    "When the last upgrade succeeded or failed.",
    "Whether the last upgrade succeeded.",
    "Connections and guards that the last drain cut.",
    "Connections and guards that the drains of the service have cut.",
    "Seconds from the last request to upgrade to its outcome.",
    "a guard that is dropped at once guards nothing",
    "a predecessor failed, and there is none",
    "a program does nothing until it is started",
    "a start needs the proof, and sends no signal",
    "a test has descriptors left",
    "an HTTP connection ended early",
    "an upgrade is refused",
    "an upgrade waits until the predecessor is gone",
    "checking the release",
    "exec /bin/sh -c \"$@\"",
    "generation {generation} serves, and is being upgraded",
    "in a test a service is upgraded with `Running::replace`",
    "the gate is as it was",
    "only its drop has an effect",
    "it is taken once, here or when it is dropped",
    "it is what ends a process whose body blocks its thread",
    "it is written once",
    "the thread was asleep",
    "its twin adopts sockets",
    "its twin binds a socket",
    "its twin looks for another service",
    "its twin takes a channel",
    "its twin makes a descriptor",
    "its twin may fail to listen again",
    "its twin sets the mode",
    "its twin starts a thread",
    "its twin waits by a system call",
    "only Linux is asked which process has an address",
    "the take-over sets the options",
    "only an upgrade pauses",
    "said no",
    "the release passed the check",
    "the service manager is told to follow the successor",
    "the successor is ready",
    "the thread waits for its work",
    "there is neither of the two",
    "no socket comes with the process",
    "there is no runtime",
    "what concerns a successor never happens",
    "a message of a later release",
    "a service does nothing until it is run",
    "asked to stop",
    "dropping `Ready` without `notify` fails the start",
    "it is inherited or bound",
    "it is no public interface",
    "started a successor",
    "strings, numbers and lists of them always encode",
    "the predecessor does not know a message",
    "a process that the successor has left behind is ended",
    "the predecessor is gone",
    "the predecessor serves no more",
    "the successor is gone",
    "the successor does not know a message",
    "the successor exited",
    "the successor had changed options of the socket; they are set back",
    "the successor serves",
    "the successor waits for the end of the drain",
    "there is no control socket",
    "there is no successor",
    "it waits for nothing until it is awaited",
    "dropping a descriptor closes it",
    "dropping it closes every descriptor that the predecessor has passed on",
    "it only keeps the socket open",
    "iterators are lazy: it accepts nothing until `next` is called",
    "it serves nothing until `serve` is awaited",
    "it accepts nothing until it is served",
    "it accepts nothing until it is polled",
    "a stream has two halves",
    "dropping it ends the service at once",
    "its twin waits for the predecessor",
    "connections moved to the process that serves",
    "Connections that it took from its predecessor.",
    "Connections that it offered and kept.",
    "Connections that it gave to its successor.",
    "the caller goes on with the socket",
    "the socket opens only for a task that waits for it",
    "a connection has not moved here",
    "a memfd of another length",
    "a memfd that is not sealed",
    "an offer that is dropped is refused",
    "it is for `hand_over`",
    "it takes nothing until it is polled",
    "it takes nothing until its offers are taken",
    "its twin has offers",
    "its twin may fail",
    "its twin offers connections to a successor",
    "nobody else has it",
    "not a memfd",
    "serde asks for it",
    "the link has let go of it before its verdict",
    "the other process takes open connections",
    "connections moved to the process that serves",
    "its twin waits for the predecessor",
    "GET {} HTTP/1.1r\n{}r\nr\n",
    "its twin takes what the engine has given",
    "the successor is probed",
    "the successor passed the probe",
    "the successor passed the verification",
    "verifying the successor",
];

#[test]
fn every_message_is_described() {
    let reference: String = reference().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut missing = Vec::new();
    let mut passed_over = BTreeSet::new();
    let mut count = 0;
    for file in sources().into_iter().filter(|file| !NOT_READ.iter().any(|not| file.starts_with(not))) {
        let source = read(&file);
        let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
        for text in literals(code) {
            if let Some(known) = NOT_DESCRIBED.iter().find(|known| **known == text) {
                passed_over.insert(known);
                continue;
            }
            count += 1;
            let said = fragments(&text).into_iter().all(|fragment| reference.contains(fragment.trim()));
            if !said {
                missing.push(format!("{}: {text}", file.display()));
            }
        }
    }
    println!("{count} messages");
    let stale: Vec<_> = NOT_DESCRIBED.iter().filter(|text| !passed_over.contains(text)).collect();
    assert!(stale.is_empty(), "no source has these any more: {stale:?}");
    assert!(count > 150, "the sources are not read as they should be: {count}");
    assert!(missing.is_empty(), "not in docs/reference.md:\n{}", missing.join("\n"));
}

/// What the compiler says of the attribute is shown by `tests/ui/fail`: the messages of the tables, and those that the macro puts
/// together.
#[test]
fn every_message_of_the_compiler_has_its_file() {
    let reference = reference();
    let tables = between(&reference, "## Messages of the compiler", "## Messages about addresses");
    let cells = tables.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let cells = cells.filter(|cell| cell.starts_with('`')).flat_map(|cell| cell.split("`, "));
    let mut messages: Vec<_> = cells.map(|text| text.trim_matches(['`', ' ']).to_owned()).collect();
    assert!(messages.len() > 40, "the tables are not read as they should be: {messages:?}");
    // What is said of an address and of a probe is that of the files for both crates, and is shown at the start.
    let files = sources().into_iter().filter(|file| file.starts_with("macros/src"));
    for file in files.filter(|file| !file.ends_with("address.rs") && !file.ends_with("probe.rs")) {
        let source = read(&file);
        messages.extend(literals(source.split("#[cfg(test)]\nmod tests").next().unwrap()));
    }
    let directories = ["tests/ui/fail", "tests/ui/without_tokio"].map(|directory| root().join(directory));
    let files = directories.into_iter().flat_map(|directory| fs::read_dir(directory).unwrap());
    let files = files.map(|entry| entry.unwrap().path());
    let shown: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "stderr"))
        .map(|file| read(file).split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let is_shown = |message: &&String| {
        let fragments = fragments(message);
        shown.iter().any(|text| fragments.iter().all(|fragment| text.contains(fragment.trim())))
    };
    let missing: Vec<_> = messages.iter().filter(|message| !is_shown(message)).collect();
    assert!(missing.is_empty(), "no file of tests/ui/fail shows: {missing:#?}");
}

/// What an operator may be told, and is no reason why something did not happen: what goes on, what is known, what a test says.
const NO_REASONS: &[&str] = &[
    "process {} waits for the process on standby",
    "GET {path} HTTP/1.1r\nHost: {authority}r\nUser-Agent: tableflip-reportr\nAccept: */*r\nConnection: closer\nr\n",
    "checking {}",
    "no command is carried out",
    "no upgrade is known",
    "the report is {}: {}",
    "the report shows a second before the upgrade",
    "the report shows the end of the upgrade",
    "it closed the connection before the end of its answer",
    "{} in {} s",
    "the old process cut 1 connection",
    "the old process cut {aborted} connections",
    "user {}, process {}",
    "asked by",
    "{generation} -> {}",
    "{from} -> {to}",
    "the service",
    "version {}",
    "not known without a control socket: generation, phase, listeners, connections, upgrades",
    "not known without a control socket: its generation, and whether it passes its probation; if not, process {} takes the pid file back",
    "generation {generation}, process {pid}, serves again",
    "generation {generation}, process {pid}, serves again, after {elapsed}",
    "process {old} asks {new} for the service",
    "process {old} gives the service back",
    "process {old} hands over to {new}",
    "process {pid} gave no answer and is killed",
    "{new} is probed",
    " (from {}{more})",
    "1 connection was cut",
    "{aborted} connections were cut",
    "process {} serves, on probation",
    "process {said} is in a PID namespace that cannot be seen from here",
    "process {said} is process {sender} here: the service counts by its own PID namespace",
    "process {}, up for {}\nexecutable   {}\n",
    "the preflight command checks the release",
    "there is no control socket at {}; process {} is known by its pid file alone",
    "unchanged: generation {}, process {}, runs that file",
    "upgraded to generation {generation}, process {pid}, which served after {elapsed}",
    "{new} is being ended",
    "{new} initialises",
    "{new} is dead; process {old} starts its own executable again",
    "{new} serves, on probation",
    "{} is sent to process {}",
];

/// Every reason of the service and of the program why something did not happen stands in `docs/operations.md`, with what to do.
#[test]
fn every_reason_is_in_the_operations() {
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let operations = words(read("docs/operations.md"));
    let outcome = read("runtime/src/engine/upgrade/outcome.rs");
    let errors = read("runtime/src/base/error.rs");
    // The other files of the program have no reasons: the command line, what is printed of a status, the pictures, and the unit.
    let has_reasons = |file: &PathBuf| {
        let is_of_program = file.starts_with("runtime/src/program") || file.ends_with("src/program.rs");
        let other = ["args.rs", "drawing.rs", "output.rs", "picture.rs", "svg.rs", "unit.rs"];
        is_of_program && !other.iter().any(|name| file.ends_with(name))
    };
    let code =
        |file: PathBuf| read(file).split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
    let program: Vec<_> = sources().into_iter().filter(has_reasons).map(code).collect();
    assert!(program.len() > 5, "the files of the program are not where they were");
    let proof = ["outside/proof", "sys/proc"].map(|file| read(format!("runtime/src/{file}.rs")));
    let [proof, proc] = proof.map(|source| between(&source, "//!", "#[cfg(test)]").to_owned());
    let sources = [
        proof,
        proc,
        between(&outcome, "pub(super) fn failure(", "\n    }\n").to_owned(),
        between(&errors, "pub enum UpgradeError", "pub enum StartError").to_owned(),
    ];
    let mut missing = Vec::new();
    let mut count = 0;
    for text in sources.iter().chain(&program).flat_map(|source| literals(source)) {
        if NO_REASONS.contains(&&*text) {
            continue;
        }
        count += 1;
        let found = fragments(&text)
            .iter()
            .all(|fragment| operations.contains(fragment.trim_matches([';', ':', ',', ' ', '`'])));
        if !found {
            missing.push(text);
        }
    }
    println!("{count} reasons");
    assert!(count > 30, "the sources are not read as they should be: {count}");
    assert!(missing.is_empty(), "not in docs/operations.md:\n{}", missing.join("\n"));
}

/// The string literals with a space in them, which makes them texts for people.
fn literals(code: &str) -> Vec<String> {
    let code: Vec<_> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // A character, which may be a quote.
            '\'' if chars.peek() == Some(&'"') => _ = chars.next(),
            '\'' if chars.peek() == Some(&'\\') => _ = chars.nth(1),
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next() {
                    match (c, chars.peek()) {
                        ('"', _) => break,
                        // A literal that goes on in the next line.
                        ('\\', Some('\n')) => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                        ('\\', Some('n')) => {
                            chars.next();
                            text.push('\n');
                        }
                        ('\\', Some(_)) => text.extend(chars.next()),
                        _ => text.push(c),
                    }
                }
                if text.trim().contains(' ') {
                    found.push(text);
                }
            }
            _ => {}
        }
    }
    found
}

/// What a message has between its `{}`, where it is long enough to be known by it.
fn fragments(text: &str) -> Vec<String> {
    // `{{` is a brace.
    let text = text.replace("{{", "\u{1}").replace("}}", "\u{2}");
    let mut found = vec![String::new()];
    let mut inside = false;
    for c in text.chars() {
        match c {
            '{' => inside = true,
            '}' => {
                inside = false;
                found.push(String::new());
            }
            _ if inside => {}
            '\u{1}' => found.last_mut().unwrap().push('{'),
            '\u{2}' => found.last_mut().unwrap().push('}'),
            c => found.last_mut().unwrap().push(c),
        }
    }
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    found.into_iter().map(words).filter(|text| text.len() > 4).collect()
}
