//! Threads over upgrades under load.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use load::{Lines, Service};

#[test]
fn no_line_is_lost() {
    let mut service = Service::of(env!("CARGO_BIN_EXE_threads")).listen("lines", "tcp://127.0.0.1:0").start();
    let client = Lines::tcp(service.address("lines"), "hello\n", "HELLO\n").stays();
    load::across_upgrades(&mut service, || client.clone());
    service.stop();
}

#[test]
fn the_count_of_a_connection_goes_on_in_each_process() {
    let mut service = Service::of(env!("CARGO_BIN_EXE_threads")).listen("lines", "tcp://127.0.0.1:0").start();
    let stream = TcpStream::connect(service.address("lines")).expect("it accepts");
    stream.set_read_timeout(Some(load::DEADLINE)).expect("a deadline that is not zero");
    let mut client = BufReader::new(stream);
    let mut ask = |question: &str| {
        client.get_mut().write_all(question.as_bytes()).expect("it reads");
        let mut answer = String::new();
        client.read_line(&mut answer).expect("an answer in time");
        answer
    };
    assert_eq!(ask("first\nhal"), "FIRST\n");
    for upgrade in 1..=3 {
        // Half a line travels with the connection, whose old process has exited.
        service.upgrade();
        assert_eq!(ask("f\n"), "HALF\n");
        assert_eq!(ask("count\nhal"), format!("{}\n", 2 * upgrade));
    }
    drop(client);
    service.stop();
}

#[test]
fn a_line_that_is_too_long_to_be_kept_comes_back_in_pieces() {
    let mut service = Service::of(env!("CARGO_BIN_EXE_threads")).listen("lines", "tcp://127.0.0.1:0").start();
    let mut stream = TcpStream::connect(service.address("lines")).expect("it accepts");
    stream.set_read_timeout(Some(load::DEADLINE)).expect("a deadline that is not zero");
    // Its end is yet to be said.
    let piece = [b'x'; 64 << 10];
    for _ in 0..2 {
        stream.write_all(&piece).expect("it reads");
        let mut heard = vec![0; piece.len()];
        stream.read_exact(&mut heard).expect("an answer in time");
        assert_eq!(heard, piece.to_ascii_uppercase());
    }
    drop(stream);
    service.stop();
}

/// What the other tests rely on.
#[test]
#[should_panic(expected = "not drained within 100ms: 1 connections")]
fn a_connection_that_is_aborted_fails_the_test() {
    let command = Service::of(env!("CARGO_BIN_EXE_threads")).listen("lines", "tcp://127.0.0.1:0");
    let mut service = command.drain_timeout("100ms").start();
    let _stays = TcpStream::connect(service.address("lines")).expect("it accepts");
    service.wait_for_connections(1);
    service.stop_with_what_is_open();
}
