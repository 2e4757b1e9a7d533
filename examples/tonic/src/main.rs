//! gRPC: a unary call and a stream. No call is lost at an upgrade. The predecessor serves a finite stream to its end. It ends
//! an endless stream with `UNAVAILABLE`, and the client then asks the successor.
//!
//! Run it with `cargo run -p tonic-hello`, and replace it with `kill -HUP $(cat tonic-hello.pid)`. tonic-prost-build
//! has generated `greeter.rs` from `proto/greeter.proto`; with protoc installed, a build script can do that.

use std::{io, pin::Pin, time::Duration};

use futures_util::{Stream, stream::unfold};
use tableflip::{Shutdown, net::TcpListener};
use tonic::{Request, Response, Status};

use greeter::greeter_server::{Greeter, GreeterServer};
use greeter::{HelloReply, HelloRequest};

#[rustfmt::skip]
#[allow(missing_debug_implementations, missing_docs, unreachable_pub, unused_qualifications, reason = "it is generated")]
mod greeter;

struct Hello {
    shutdown: Shutdown,
}

type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: format!("Hello, {}!", request.into_inner().name) }))
    }

    type KeepSayingHelloStream = Replies;

    async fn keep_saying_hello(&self, request: Request<HelloRequest>) -> Result<Response<Replies>, Status> {
        let HelloRequest { name, times } = request.into_inner();
        let ticks = tokio::time::interval(Duration::from_millis(10));
        let start = Some((1, ticks, self.shutdown.clone()));
        let replies = unfold(start, move |state| {
            let message = format!("Hello, {name}!");
            async move {
                let (number, mut ticks, mut shutdown) = state?;
                tokio::select! {
                    () = &mut shutdown, if times == 0 => Some((Err(Status::unavailable("upgrade: ask again")), None)),
                    _ = ticks.tick() => {
                        let more = times == 0 || number < times;
                        Some((Ok(HelloReply { message }), more.then_some((number + 1, ticks, shutdown))))
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

#[tableflip::main(pidfile = "tonic-hello.pid", listen = [grpc = "tcp://127.0.0.1:50051"])]
async fn main(grpc: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    tableflip::http::serve(grpc, GreeterServer::new(Hello { shutdown })).await
}
