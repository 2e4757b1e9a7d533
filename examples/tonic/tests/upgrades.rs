//! gRPC over upgrades under load, with the client of tonic.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use load::Service;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use greeter::HelloRequest;
use greeter::greeter_client::GreeterClient;

#[rustfmt::skip]
#[allow(missing_debug_implementations, missing_docs, unreachable_pub, unused_qualifications, reason = "it is generated")]
#[path = "../src/greeter.rs"]
mod greeter;

fn service() -> Service {
    Service::of(env!("CARGO_BIN_EXE_tonic-hello")).listen("grpc", "tcp://127.0.0.1:0").start()
}

fn endpoint(service: &Service) -> Endpoint {
    Endpoint::from_shared(format!("http://{}", service.address("grpc"))).expect("an address")
}

fn request(times: u32) -> HelloRequest {
    HelloRequest { name: "World".to_owned(), times }
}

struct Unary {
    endpoint: Endpoint,
    client: Option<GreeterClient<Channel>>,
    /// Calls that the clients did not send at first.
    unsent: Arc<AtomicU64>,
}

/// What the channel says of a call that the service has not got. Its connection had ended when the call was to be sent; or
/// the GOAWAY came at that moment, which is h2's error of such streams alone that were not opened, or that it names as not
/// served, RFC 9113 section 6.8: what is cut off in mid-answer is a broken pipe.
const NOT_SENT: [&str; 2] =
    [r#"hyper::Error(Canceled, "connection closed")"#, r#"GoAway(b"", NO_ERROR, Remote)"#];

impl load::Client for Unary {
    async fn ask(&mut self) -> io::Result<()> {
        // Here, for a channel is made within a runtime.
        let client = self.client.get_or_insert_with(|| GreeterClient::new(self.endpoint.connect_lazy()));
        loop {
            match client.say_hello(request(1)).await {
                Ok(answer) if answer.get_ref().message == "Hello, World!" => return Ok(()),
                // The pool of hyper-util asks again by itself then, and the channel of tonic leaves it to its user.
                Err(status) if NOT_SENT.iter().any(|text| format!("{status:?}").contains(text)) => {
                    self.unsent.fetch_add(1, Ordering::Relaxed);
                }
                other => return Err(io::Error::other(format!("{other:?}"))),
            }
        }
    }

    /// The channel connects by itself, and again where it has to.
    fn connections(&self) -> u32 {
        self.client.is_some().into()
    }
}

#[test]
fn no_call_is_lost() {
    let mut service = service();
    let endpoint = endpoint(&service);
    let unsent = Arc::new(AtomicU64::new(0));
    let client = || Unary { endpoint: endpoint.clone(), client: None, unsent: unsent.clone() };
    load::across_upgrades(&mut service, client);
    println!(
        "tonic-hello: {} calls were to be sent on a connection that had ended",
        unsent.load(Ordering::Relaxed)
    );
    service.stop();
}

/// How many replies come, and what the stream ends by.
async fn take_all(endpoint: Endpoint, times: u32, begun: impl FnOnce()) -> (u32, Result<(), Status>) {
    let mut client = GreeterClient::new(endpoint.connect_lazy());
    let mut replies = client.keep_saying_hello(request(times)).await.expect("it begins").into_inner();
    let (mut number, mut begun) = (0, Some(begun));
    loop {
        match replies.message().await {
            Ok(Some(_)) => number += 1,
            Ok(None) => return (number, Ok(())),
            Err(status) => return (number, Err(status)),
        }
        if let Some(begun) = begun.take() {
            begun();
        }
    }
}

#[test]
fn a_stream_with_an_end_is_finished_by_the_old_process_and_one_without_is_told() {
    let mut service = service();
    std::thread::scope(|scope| {
        let (begun, both) = std::sync::mpsc::channel();
        let endpoint = endpoint(&service);
        let [long, endless] = [200, 0].map(|times| {
            let (begun, endpoint) = (begun.clone(), endpoint.clone());
            let begun = move || begun.send(()).expect("it is awaited");
            scope.spawn(move || load::block_on(take_all(endpoint, times, begun)))
        });
        both.recv().expect("it has begun");
        both.recv().expect("it has begun");
        let (mut control, _new) = service.begin_upgrade();
        let (number, ended) = long.join().expect("no panic");
        assert_eq!(number, 200, "{ended:?}");
        let (number, ended) = endless.join().expect("no panic");
        assert!(
            number > 0 && ended.as_ref().is_err_and(|status| status.code() == Code::Unavailable),
            "{ended:?}"
        );
        control.wait_for_the_end();
    });
    service.stop();
}
