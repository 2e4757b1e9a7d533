//! A successor that follows the steps of a test, and breaks the protocol.
//!
//! The file `impostor` in the directory of the test has one step a line:
//!
//! ```text
//! receive                   takes the offer and its sockets
//! wait TYPE                 takes messages until one of this type
//! send JSON                 sends it as it stands, be it JSON or not
//! send-with JSON            the same, with a descriptor
//! send-with-many N JSON     the same, with N of them
//! oversized                 sends a message that is one byte too long
//! empty                     sends an empty packet
//! flood JSON                sends it for ever, and reads nothing
//! repeat N JSON             sends it N times, and reads nothing
//! block-sockets             clears O_NONBLOCK on every socket that was offered
//! gate NAME                 waits until the test opens the gate
//! answer INDEX              serves one client of this socket, which is told `impostor`
//! takes KIND                says that it takes connections of this kind on the first listener
//! link JSON                 sends a packet with this head over the link
//! link-raw TEXT             sends this text over the link
//! offers                    waits for connections that are offered, and tells the test of them
//! unlink                    closes the link, and the descriptors that came over it
//! close                     closes the channel
//! say WHAT                  says so to the test
//! exit STATUS               ends
//! ```
//!
//! After the last step it stays, until it is killed or the test is over. It says where it is on stdout, as the victim
//! does.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::stdio::{stdin, stdout};
use serde_json::json;
use tests::channel::{Channel, Link, MAX_MESSAGE};

fn main() {
    say("main", "");
    let directory =
        PathBuf::from(env::var_os("VICTIM_DIR").expect("VICTIM_DIR names the directory of the test"));
    let script = fs::read_to_string(directory.join("impostor")).expect("the test has written a script");
    let mut impostor =
        Impostor { directory, channel: Some(Channel::inherited()), sockets: Vec::new(), link: None };
    for line in script.lines() {
        let (step, argument) = line.split_once(' ').unwrap_or((line, ""));
        impostor.act(step, argument);
    }
    // What it has stays open.
    loop {
        if let Ok(0) = rustix::io::read(stdin(), &mut [0_u8]) {
            break;
        }
    }
}

struct Impostor {
    directory: PathBuf,
    channel: Option<Channel>,
    sockets: Vec<OwnedFd>,
    /// The link, and the connections that were offered.
    link: Option<(Link, Vec<OwnedFd>)>,
}

impl Impostor {
    fn act(&mut self, step: &str, argument: &str) {
        let channel = self.channel.as_ref().expect("the channel is open");
        match step {
            "receive" => {
                let offer = channel.expect("offer");
                let count = usize::try_from(offer["sockets"].as_u64().expect("a number")).expect("a size");
                while self.sockets.len() < count {
                    let packet = channel.receive().expect("the sockets that were announced");
                    assert!(packet.text.starts_with(r#"{"type":"sockets","#), "{packet:?}");
                    self.sockets.extend(packet.fds);
                }
                say("offered", &offer.to_string());
            }
            "wait" => {
                let message = channel.wait_for(argument);
                say("received", &message.to_string());
            }
            "send" => channel.send_packet(argument.as_bytes(), &[]),
            "send-with" => channel.send_packet(argument.as_bytes(), &[stdin()]),
            "send-with-many" => {
                let (count, message) = argument.split_once(' ').expect("a number and a message");
                let count = count.parse().expect("a number");
                channel.send_packet(message.as_bytes(), &vec![stdin(); count]);
            }
            "oversized" => {
                let mut message = br#"{"type":"prepared","adopted":[]}"#.to_vec();
                message.resize(MAX_MESSAGE + 1, b' ');
                channel.send_packet(&message, &[]);
            }
            "empty" => channel.send_packet(b"", &[]),
            // From two threads that do not wait for room, so that there is always something to be read.
            "flood" => std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        loop {
                            channel.try_send_packet(argument.as_bytes(), &[]);
                        }
                    });
                }
            }),
            "repeat" => {
                let (times, message) = argument.split_once(' ').expect("a number and a message");
                for _ in 0..times.parse::<usize>().expect("a number") {
                    channel.send_packet(message.as_bytes(), &[]);
                }
            }
            "block-sockets" => {
                for socket in &self.sockets {
                    let flags = fcntl_getfl(socket).expect("a descriptor");
                    fcntl_setfl(socket, flags - OFlags::NONBLOCK).expect("a descriptor");
                }
            }
            "answer" => {
                let socket = &self.sockets[argument.parse::<usize>().expect("a place in the offer")];
                let listener = TcpListener::from(socket.try_clone().expect("a descriptor more"));
                let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
                poll(&mut fds, None).expect("a client comes");
                let (mut client, _): (TcpStream, _) = listener.accept().expect("it is there");
                client.write_all(b"impostor\n").expect("it reads");
            }
            "gate" => {
                say("gate", argument);
                let mut fifo =
                    File::open(self.directory.join(format!("gate-{argument}"))).expect("the test made it");
                fifo.read_exact(&mut [0]).expect("the test has it open for writing");
            }
            "takes" => {
                let (ours, theirs) = Link::pair();
                let takes = json!({"type": "takes", "listeners": [{"listener": 0, "kinds": [argument]}]});
                channel.send_with(&takes, &[theirs.as_fd()]);
                self.link = Some((ours, Vec::new()));
            }
            "link" => {
                let head = serde_json::from_str(argument).expect("JSON");
                self.link.as_ref().expect("`takes` comes first").0.send(&head, &[], &[]);
            }
            "link-raw" => {
                self.link.as_ref().expect("`takes` comes first").0.send_bytes(argument.as_bytes(), &[]);
            }
            "offers" => {
                let (link, held) = self.link.as_mut().expect("`takes` comes first");
                let (head, fds) = link.receive().expect("connections are offered");
                held.extend(fds);
                say("offers", &head.to_string());
            }
            "unlink" => self.link = None,
            "close" => self.channel = None,
            "say" => say(argument, ""),
            "exit" => std::process::exit(argument.parse().expect("a status")),
            _ => panic!("there is no step `{step}`"),
        }
    }
}

/// One line for the test; `victim/say.rs` has the form.
fn say(what: &str, text: &str) {
    let line = format!("{} 0 {what} {text}\n", std::process::id());
    match rustix::io::write(stdout(), line.as_bytes()) {
        Ok(_) | Err(_) => {}
    }
}
