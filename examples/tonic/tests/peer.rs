//! A service of tonic learns the address of its client.

use std::net::SocketAddr;
use std::pin::Pin;

use futures_util::Stream;
use tableflip::http::{serve, with_connect_info};
use tableflip::{Service, net::TcpListener, testing};
use tonic::transport::{Endpoint, server::TcpConnectInfo};
use tonic::{Request, Response, Status};

use greeter::greeter_client::GreeterClient;
use greeter::greeter_server::{Greeter, GreeterServer};
use greeter::{HelloReply, HelloRequest};

#[rustfmt::skip]
#[allow(missing_debug_implementations, missing_docs, unreachable_pub, unused_qualifications, reason = "it is generated")]
#[path = "../src/greeter.rs"]
mod greeter;

/// Answers with the two addresses of the connection.
struct Addresses;

#[tonic::async_trait]
impl Greeter for Addresses {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("{:?} {:?}", request.remote_addr(), request.local_addr());
        Ok(Response::new(HelloReply { message }))
    }

    type KeepSayingHelloStream = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

    async fn keep_saying_hello(
        &self,
        _request: Request<HelloRequest>,
    ) -> Result<Response<Self::KeepSayingHelloStream>, Status> {
        Err(Status::unimplemented("the test asks once"))
    }
}

#[test]
fn b13_a_service_of_tonic_has_the_remote_addr() {
    let service = testing::start(Service::new().listen("grpc", "tcp://127.0.0.1:0"), |start| {
        let grpc: TcpListener = start.listener("grpc")?;
        let grpc = with_connect_info(grpc, |stream, peer| TcpConnectInfo {
            local_addr: stream.local_addr().ok(),
            remote_addr: Some(*peer),
        });
        Ok(serve(grpc, GreeterServer::new(Addresses)))
    });
    let service = service.expect("it serves");
    let address = service.address("grpc").expect("it is bound to a port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let message = runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let mut client = GreeterClient::new(endpoint.connect_lazy());
        let request = HelloRequest { name: String::new(), times: 1 };
        client.say_hello(request).await.expect("an answer").into_inner().message
    });
    let (remote, local) = message.split_once(' ').expect("two addresses");
    assert_eq!(local, format!("{:?}", Some(address)));
    let remote = remote.strip_prefix("Some(").and_then(|text| text.strip_suffix(')')).expect("an address");
    let remote: SocketAddr = remote.parse().expect("an address");
    assert!(remote.ip() == address.ip() && remote.port() != address.port(), "{message}");
    service.stop();
}
