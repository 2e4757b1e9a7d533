//! Connections with a typed state over upgrades.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use load::Service;

fn service() -> Service {
    Service::of(env!("CARGO_BIN_EXE_chat")).listen("chat", "tcp://127.0.0.1:0").start()
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn of(service: &Service) -> Self {
        let stream = TcpStream::connect(service.address("chat")).expect("it accepts");
        stream.set_read_timeout(Some(load::DEADLINE)).expect("a deadline that is not zero");
        Self(BufReader::new(stream))
    }

    fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("it reads");
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line in time");
        line
    }
}

#[test]
fn each_process_knows_the_client() {
    let mut service = service();
    let mut clients: Vec<_> = (0..20).map(|number| (number, Client::of(&service))).collect();
    for (number, client) in &mut clients {
        client.say(&format!("client {number}\n"));
        assert_eq!(client.hear(), format!("Hello client {number}\n"));
    }
    for upgrade in 1..=3 {
        // A part of a line travels, from a process that exits.
        clients.iter_mut().for_each(|(_, client)| client.say("how are "));
        service.upgrade();
        for (number, client) in &mut clients {
            client.say("you?\n");
            assert_eq!(
                client.hear(),
                format!("client {number}, that is line {}: how are you?\n", upgrade + 1)
            );
        }
    }
    drop(clients);
    service.stop();
}

#[test]
fn a_client_that_has_said_nothing_moves_too() {
    let mut service = service();
    let mut client = Client::of(&service);
    service.wait_for_connections(1);
    service.upgrade();
    client.say("Ada\n");
    assert_eq!(client.hear(), "Hello Ada\n");
    drop(client);
    service.stop();
}

#[test]
fn a_stop_says_goodbye() {
    let mut service = service();
    let mut client = Client::of(&service);
    client.say("Ada\n");
    assert_eq!(client.hear(), "Hello Ada\n");
    service.stop_with_what_is_open();
    assert_eq!(client.hear(), "Goodbye, please come back\n");
    assert_eq!(client.hear(), "");
}
