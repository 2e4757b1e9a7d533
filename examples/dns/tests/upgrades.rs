//! DNS over upgrades under load.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use load::{Dns, Program, Service, have};

/// That dig sends for an upgrade.
const QUERIES: usize = 3000;

fn service() -> Service {
    Service::of(env!("CARGO_BIN_EXE_dns"))
        .listen("udp", "udp://127.0.0.1:0")
        .listen("tcp", "tcp://127.0.0.1:0")
        .start()
}

#[test]
fn every_query_over_udp_is_answered_once() {
    let mut service = service();
    let client = Dns::new(service.address("udp"));
    load::across_uncounted_upgrades(&mut service, || client.clone());
    service.stop();
}

/// Queries in the order in which they are answered: the number, and the code of the answer.
fn answers(server: SocketAddr, messages: &[Vec<u8>], expected: &[(u8, u8)]) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(load::DEADLINE)).expect("a deadline that is not zero");
    for message in messages {
        socket.send_to(message, server).expect("it can be sent");
    }
    for (number, code) in expected {
        let mut answer = [0; 512];
        socket.recv(&mut answer).expect("an answer in time");
        assert_eq!((answer[1], answer[3] & 15), (*number, *code), "{answer:?}");
    }
}

#[test]
fn a_name_outside_of_the_zone_is_refused_and_a_response_has_no_answer() {
    const REFUSED: u8 = 5;
    let mut service = service();
    let messages = [
        Dns::message(1, Dns::RESPONSE, b"\x03www\x07example\x03org\0"),
        Dns::message(2, Dns::QUERY, b"\x03www\x0bevilexample\x03org\0"),
        Dns::message(3, Dns::QUERY, b"\x03WWW\x07EXAMPLE\x03org\0"),
    ];
    answers(service.address("udp"), &messages, &[(2, REFUSED), (3, 0)]);
    service.stop();
}

#[test]
fn an_idle_client_over_tcp_does_not_hold_an_upgrade_to_its_deadline() {
    let mut service = service();
    let idle = TcpStream::connect(service.address("tcp")).expect("it accepts");
    load::wait_until("it is accepted", || service.taken("tcp") == 1);
    service.upgrade();
    drop(idle);
    service.stop();
}

/// dig asks once for each, and waits for no more than 5 s.
fn dig(service: &mut Service, listener: &str, options: &[&str]) {
    if !have("dig") {
        return;
    }
    let names = service.path("names");
    let port = service.address(listener).port().to_string();
    let dig = |times: u32| {
        fs::write(&names, "www.example.org\n".repeat(QUERIES * times as usize)).expect("it can be written");
        let mut dig = Command::new("dig");
        dig.args(["@127.0.0.1", "-p", &port, "+tries=1", "+timeout=5", "+short"]).args(options);
        dig.arg("-f").arg(&names);
        dig
    };
    let program = Program { listener, begun: 1 };
    program.across_upgrades(service, dig, Service::upgrade_all, |times, answers| {
        let right = answers.lines().filter(|line| *line == "192.0.2.1").count();
        let asked = QUERIES * times as usize;
        assert_eq!((right, answers.lines().count()), (asked, asked), "of dig's answers");
    });
    service.stop();
}

#[test]
fn dig_gets_every_answer_over_udp() {
    dig(&mut service(), "udp", &[]);
}

#[test]
fn dig_gets_every_answer_over_tcp() {
    dig(&mut service(), "tcp", &["+tcp"]);
}

/// dnsperf counts what it sends and what is answered, and complains of an answer to nothing, which a second one is.
#[test]
fn dnsperf_gets_one_answer_to_each_query() {
    if !have("dnsperf") {
        return;
    }
    let mut service = service();
    let names = service.path("names");
    fs::write(&names, "www.example.org A\n").expect("it can be written");
    let port = service.address("udp").port().to_string();
    let dnsperf = |times: u32| {
        let mut dnsperf = Command::new("dnsperf");
        dnsperf.args(["-s", "127.0.0.1", "-p", &port, "-Q", &load::RATE.to_string(), "-c", "16", "-t", "10"]);
        dnsperf.args(["-l", &times.to_string(), "-d"]).arg(&names);
        dnsperf
    };
    let program = Program { listener: "udp", begun: 1 };
    program.across_upgrades(&mut service, dnsperf, Service::upgrade_all, |_, text| {
        let count = |what: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(what));
            line.and_then(|rest| rest.split_whitespace().next())
                .unwrap_or_else(|| panic!("no {what}\n{text}"))
                .to_owned()
        };
        println!(
            "dnsperf: {} queries at {} a second, {} lost",
            count("Queries sent:"),
            count("Queries per second:"),
            count("Queries lost:")
        );
        assert_eq!(count("Queries completed:"), count("Queries sent:"), "{text}");
        assert!(!text.contains("Warning"), "{text}");
    });
    service.stop();
}
