//! The Redis protocol over upgrades under load.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;

use load::{Lines, Program, Service, have};

fn service() -> Service {
    let command = Service::of(env!("CARGO_BIN_EXE_redis-line")).listen("tcp", "tcp://127.0.0.1:0");
    let socket = command.path("socket");
    command.listen("unix", socket.to_str().expect("temporary directories are UTF-8")).start()
}

#[test]
fn no_command_is_lost_over_tcp() {
    let mut service = service();
    let client = Lines::tcp(service.address("tcp"), "*1\r\n$4\r\nPING\r\n", "+PONG\r\n").stays();
    load::across_upgrades(&mut service, || client.clone());
    service.stop();
}

#[test]
fn no_command_is_lost_over_a_unix_socket() {
    let mut service = service();
    let client = Lines::unix(service.path("socket"), "ECHO over-unix\r\n", "$9\r\nover-unix\r\n").stays();
    load::across_upgrades(&mut service, || client.clone());
    service.stop();
}

/// What the service answers to this, up to the end of the connection.
fn conversation(service: &Service, said: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(service.address("tcp")).expect("it accepts");
    stream.set_read_timeout(Some(load::DEADLINE)).expect("a deadline that is not zero");
    stream.write_all(said).expect("it reads as much");
    stream.shutdown(Shutdown::Write).expect("it is connected");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("an end in time");
    heard
}

#[test]
fn the_name_of_a_command_does_not_break_the_reply() {
    let mut service = service();
    let heard = conversation(&service, b"*1\r\n$7\r\nX\r\n+OK\n\r\nPING\r\n");
    assert_eq!(String::from_utf8_lossy(&heard), "-ERR unknown command \"X\\r\\n+OK\\n\"\r\n+PONG\r\n");
    service.stop();
}

#[test]
fn a_client_is_given_no_memory_without_end() {
    let mut service = service();
    // Exactly as much as is read, for a connection that is closed with more in it is reset.
    assert_eq!(conversation(&service, &[b'x'; 64 << 10]), b"");
    assert_eq!(conversation(&service, b"*256\r\n"), b"");
    service.stop();
}

#[test]
fn half_a_command_travels() {
    let mut service = service();
    let mut stream = TcpStream::connect(service.address("tcp")).expect("it accepts");
    stream.set_read_timeout(Some(load::DEADLINE)).expect("a deadline that is not zero");
    let mut say = |text: &str, replies: &str| {
        stream.write_all(text.as_bytes()).expect("it reads");
        let mut heard = vec![0; replies.len()];
        stream.read_exact(&mut heard).expect("a reply in time");
        assert_eq!(String::from_utf8_lossy(&heard), replies);
    };
    say("PING\r\n*2\r\n$4\r\nEC", "+PONG\r\n");
    for cut in ["HO\r\n$5\r\nhel", "HO\r\n$5\r\nhello\r"] {
        // The process that has read the first half has exited.
        service.upgrade();
        say(cut, "");
        service.upgrade();
        let rest = &"HO\r\n$5\r\nhello\r\n"[cut.len()..];
        say(&format!("{rest}PING\r\n*2\r\n$4\r\nEC"), "$5\r\nhello\r\n+PONG\r\n");
    }
    drop(stream);
    service.stop();
}

/// Its pipelines go on in each process.
#[test]
fn redis_benchmark_keeps_its_connections() {
    if !have("redis-benchmark") {
        return;
    }
    let mut service = service();
    let port = service.address("tcp").port().to_string();
    let benchmark = |times: u32| {
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.args(["-h", "127.0.0.1", "-p", &port, "-t", "ping_mbulk", "-c", "20", "-P", "16", "--csv"]);
        benchmark.args(["-n", &(100_000 * times).to_string()]);
        benchmark
    };
    let program = Program { listener: "tcp", begun: 20 };
    // Each old process exits while the benchmark is at work.
    program.across_upgrades(&mut service, benchmark, Service::upgrade_all, |_, text| {
        assert!(text.contains("PING") && !text.contains("Error"), "{text}");
    });
    service.stop();
}
