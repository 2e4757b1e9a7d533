//! Property tests of addresses and durations. Each says how many cases it has tried; `PROPTEST_CASES` sets the number.
//! The messages of a handover are in `runtime/src/outside/handover/message.rs`, which is private.

use std::cell::Cell;
use std::str::FromStr;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tableflip::Service;
use tableflip::address::{Address, Options, ParseAddressError};

/// How many cases each property is tried with.
const CASES: u32 = 10_000;

/// Tries a property, and prints how many of the cases were good ones: a fuzzer that only ever finds errors tries nothing.
fn check<S: Strategy>(
    name: &str,
    least: u32,
    strategy: &S,
    property: impl Fn(S::Value) -> Result<bool, TestCaseError>,
) {
    let cases = std::env::var("PROPTEST_CASES").map_or(CASES, |cases| cases.parse().expect("a number"));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let good = Cell::new(0);
    let result = TestRunner::new(config).run(strategy, |value| {
        good.set(good.get() + u32::from(property(value)?));
        Ok(())
    });
    println!("{name}: {cases} cases, {} of them parsed", good.get());
    if let Err(error) = result {
        panic!("{name}: {error}");
    }
    assert!(
        u64::from(good.get()) * 100 >= u64::from(least) * u64::from(cases),
        "fewer than {least} % parsed"
    );
}

/// What holds for every text: it is an address that prints as one that is equal, or an error with its place.
fn address_or_error(text: &str) -> Result<bool, TestCaseError> {
    match Address::from_str(text) {
        Ok(address) => {
            let printed = address.to_string();
            let again = Address::from_str(&printed)
                .map_err(|error| TestCaseError::fail(format!("{text:?} prints as {printed:?}: {error}")))?;
            prop_assert_eq!(&again, &address, "{:?} prints as {:?}", text, printed);
            prop_assert_eq!(again.to_string(), printed);
            // The identity is the address without its options.
            let identity = Address::from_str(&address.identity());
            let identity = identity.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(identity.identity(), address.identity());
            prop_assert_eq!((identity.kind(), identity.place()), (address.kind(), address.place()));
            prop_assert_eq!(identity.options(), &Options::default());
            Ok(true)
        }
        Err(error) => {
            error_has_its_place(text, &error)?;
            Ok(false)
        }
    }
}

fn error_has_its_place(text: &str, error: &ParseAddressError) -> Result<(), TestCaseError> {
    let at = error.at();
    // It can be sliced, which takes boundaries of characters within the text.
    prop_assert!(text.get(at.clone()).is_some(), "{:?}: {:?}: {}", text, at, error);
    let message = error.to_string();
    // One line, because that is what it is reported in.
    prop_assert!(!message.is_empty() && !message.contains(char::is_control), "{:?}: {:?}", text, message);
    Ok(())
}

/// Pieces that the grammar knows, and some that it does not.
const PIECES: &[&str] = &[
    "tcp",
    "udp",
    "unix",
    "unix-dgram",
    "unix-seqpacket",
    "http",
    "://",
    ":",
    "/",
    "//",
    "@",
    "[",
    "]",
    "?",
    "&",
    "=",
    "127.0.0.1",
    "0.0.0.0",
    "1.2.3",
    "256.1.1.1",
    "::1",
    "::",
    "fe80::1%eth0",
    "localhost",
    "a.example.",
    "-",
    "_",
    "0",
    "1",
    "80",
    "65535",
    "65536",
    "+1",
    "00080",
    "true",
    "off",
    "backlog",
    "reuse_port",
    "v6only",
    "nodelay",
    "keepalive",
    "fastopen",
    "freebind",
    "device",
    "recv_buffer",
    "send_buffer",
    "mode",
    "user",
    "group",
    "660",
    "999",
    "eth0",
    "root",
    "run",
    "a.sock",
    ".",
    "..",
    "%20",
    "\\",
    "\"",
    "{",
    "é",
    "\u{2028}",
    "\u{200b}",
    "𝄞",
    "\0",
    "\n",
    " ",
];

fn of_pieces() -> impl Strategy<Value = String> {
    prop::collection::vec(select(PIECES), 0..14).prop_map(|pieces| pieces.concat())
}

/// A text that is an address, by the grammar as the documentation has it.
fn well_formed() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
        "[a-zA-Z_-][a-zA-Z0-9_-]{0,20}(\\.[a-zA-Z0-9_-]{1,20}){0,3}\\.?",
    ];
    let switch = select(&["true", "false", "1", "0", "yes", "no", "on", "off"][..]);
    let count = 1..=i32::MAX;
    let ip_options = (
        prop::option::of(switch.clone()),
        prop::option::of(switch.clone()),
        prop::option::of(switch.clone()),
        prop::option::of("[a-z0-9.é]{1,7}"),
        prop::option::of(count.clone()),
        prop::option::of(count.clone()),
    )
        .prop_map(|(reuse_port, v6only, freebind, device, recv_buffer, send_buffer)| {
            let text = |value: Option<&str>| value.map(str::to_owned);
            vec![
                ("reuse_port", text(reuse_port)),
                ("v6only", text(v6only)),
                ("freebind", text(freebind)),
                ("device", device),
                ("recv_buffer", recv_buffer.map(|n| n.to_string())),
                ("send_buffer", send_buffer.map(|n| n.to_string())),
            ]
        });
    let tcp_options = (
        prop::option::of(switch.clone()),
        prop::option::of(switch),
        prop::option::of(count.clone()),
        prop::option::of(count.clone()),
    )
        .prop_map(|(nodelay, keepalive, fastopen, backlog)| {
            vec![
                ("nodelay", nodelay.map(str::to_owned)),
                ("keepalive", keepalive.map(str::to_owned)),
                ("fastopen", fastopen.map(|n| n.to_string())),
                ("backlog", backlog.map(|n| n.to_string())),
            ]
        });
    let ip = (select(&["tcp://", "udp://", ""][..]), host, any::<u16>(), ip_options, tcp_options).prop_map(
        |(scheme, host, port, mut options, tcp)| {
            if scheme != "udp://" {
                options.extend(tcp);
            }
            (format!("{scheme}{host}:{port}"), options)
        },
    );
    let path_options = (
        prop::option::of(0_u32..=0o777),
        prop::option::of("[a-z0-9_.=-]{1,12}"),
        prop::option::of("[a-z0-9_.=-]{1,12}"),
        prop::option::of(count),
    )
        .prop_map(|(mode, user, group, send_buffer)| {
            vec![
                ("mode", mode.map(|mode| format!("{mode:o}"))),
                ("user", user),
                ("group", group),
                ("send_buffer", send_buffer.map(|n| n.to_string())),
            ]
        });
    // Anything but what ends it, a control character, and a slash at the end.
    let file = "(/[^?/\\p{C}]{1,8}){1,3}";
    let schemes =
        &["unix:", "unix-dgram:", "unix-seqpacket:", "unix://", "unix-dgram://", "unix-seqpacket://"][..];
    let path = (select(schemes), file, path_options)
        .prop_map(|(scheme, path, options)| (scheme.to_owned() + &path, options));
    let hidden = (select(schemes), "[^?\\p{C}]{1,20}")
        .prop_map(|(scheme, name)| (format!("{scheme}@{name}"), Vec::new()));
    let with_options = |(base, options): (String, Vec<(&'static str, Option<String>)>)| {
        let mut options: Vec<_> =
            options.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?))).collect();
        options.reverse();
        if options.is_empty() { base } else { format!("{base}?{}", options.join("&")) }
    };
    prop_oneof![ip, path, hidden].prop_map(with_options)
}

#[test]
fn any_text_is_an_address_or_an_error() {
    check("any text", 0, &".{0,40}", |text| address_or_error(&text));
    check("any text that is printable", 0, &"\\PC{0,150}", |text| address_or_error(&text));
    check("pieces of addresses", 1, &of_pieces(), |text| address_or_error(&text));
}

#[test]
fn a_text_of_the_grammar_is_an_address() {
    check("texts of the grammar", 100, &well_formed(), |text| {
        let parsed = address_or_error(&text)?;
        prop_assert!(parsed, "{:?}: {:?}", text, Address::from_str(&text));
        Ok(true)
    });
}

#[test]
fn an_address_that_is_damaged_is_an_address_or_an_error() {
    let damage = prop::collection::vec((any::<Index>(), 0..4_u8, any::<char>(), select(PIECES)), 1..4);
    check("damaged addresses", 5, &(well_formed(), damage), |(mut text, damage)| {
        for (place, what, c, piece) in damage {
            let mut at = place.index(text.len() + 1);
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            match what {
                0 => text.insert(at, c),
                1 => text.insert_str(at, piece),
                2 => text.truncate(at),
                _ if at < text.len() => _ = text.remove(at),
                _ => text += piece,
            }
        }
        address_or_error(&text)
    });
}

/// What is too long for the kernel is an error that says so, and nothing else is.
#[test]
fn a_path_is_as_long_as_the_kernel_allows() {
    check("paths", 20, &("[a-z/é]{0,130}", any::<bool>()), |(rest, hidden)| {
        let place = if hidden { format!("@{rest}") } else { format!("/{rest}") };
        let text = format!("unix://{place}");
        let length = if hidden { rest.len() } else { place.len() };
        let ends_well = hidden || !place.ends_with('/');
        let parsed = address_or_error(&text)?;
        prop_assert_eq!(parsed, (1..=107).contains(&length) && ends_well, "{}", text);
        Ok(parsed)
    });
}

/// How a service takes a duration, at a start that is then refused.
fn declared(text: &str) -> Result<(), String> {
    // The start ends at the name of the listener, which comes after the durations.
    let service = Service::new().drain_timeout(text).listen("no name", "tcp://localhost:0");
    let error = tableflip::testing::start_blocking(service, |_| Ok(|| ())).map(drop).unwrap_err().to_string();
    match error.strip_prefix("option `drain_timeout`: ") {
        Some(problem) => Err(problem.to_owned()),
        None => {
            assert!(error.starts_with("listener `no name`: "), "{error}");
            Ok(())
        }
    }
}

#[test]
fn a_text_is_a_duration_or_an_error() {
    let pieces: &[&str] = &[
        "1",
        "30",
        "500",
        "0",
        "18446744073709551615",
        "ns",
        "us",
        "µs",
        "ms",
        "s",
        "sec",
        "m",
        "min",
        "h",
        "hours",
        "d",
        "days",
        "w",
        "M",
        "y",
        "years",
        " ",
        ".",
        "-",
        "+",
        "e",
        "é",
        "\n",
        "\0",
        "fortnight",
    ];
    let text = prop_oneof![
        prop::collection::vec(select(pieces), 0..8).prop_map(|pieces| pieces.concat()),
        ".{0,20}",
        "([0-9]{1,6}(ms|s|m|h|d) ?){1,3}",
    ];
    check("durations", 20, &text, |text| {
        let parsed = declared(&text);
        if let Err(problem) = &parsed {
            let expected = format!("`{text}` is not a duration such as `500ms`, `30s` or `2m`: ");
            prop_assert!(problem.starts_with(&expected), "{:?}: {}", text, problem);
        }
        Ok(parsed.is_ok())
    });
}

/// What humantime prints, a service takes: an operator copies a value out of a log.
#[test]
fn a_duration_that_is_printed_is_a_duration() {
    check("durations that are printed", 100, &any::<Duration>(), |duration| {
        let text = humantime::format_duration(duration).to_string();
        declared(&text).map_err(|problem| TestCaseError::fail(format!("{duration:?}: {problem}")))?;
        Ok(true)
    });
}
