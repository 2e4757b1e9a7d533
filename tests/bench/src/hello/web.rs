//! Frameworks of HTTP that `tableflip::http::serve` serves.

use std::convert::Infallible;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use futures_util::stream::{self, Stream};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::http::uri::Scheme;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use poem::listener::TcpAcceptor;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Endpoint, Route};
use tableflip::net::TcpListener;
use tableflip::{Service, Upgrader};
use tonic::{Request as Call, Response as Reply, Status};

use super::HELLO;
use crate::Result;
use crate::service::{ANY_PORT, announce};

use greeter::greeter_server::{Greeter, GreeterServer};
use greeter::{HelloReply, HelloRequest};

#[rustfmt::skip]
#[allow(missing_debug_implementations, missing_docs, unreachable_pub, unused_qualifications, dead_code, reason = "it is generated")]
#[path = "../../../../examples/tonic/src/greeter.rs"]
mod greeter;

async fn hello(_: Request<Incoming>) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from(HELLO)))
}

pub(super) fn router() -> Router {
    Router::new().route("/", axum::routing::get(|| async { HELLO }))
}

#[poem::handler]
fn poem_hello() -> &'static str {
    HELLO
}

fn poem_route() -> Route {
    Route::new().at("/", poem::get(poem_hello))
}

#[derive(Clone)]
struct Hello;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, call: Call<HelloRequest>) -> std::result::Result<Reply<HelloReply>, Status> {
        Ok(Reply::new(HelloReply { message: format!("Hello, {}!", call.into_inner().name) }))
    }

    type KeepSayingHelloStream = stream::Empty<std::result::Result<HelloReply, Status>>;

    async fn keep_saying_hello(
        &self,
        _: Call<HelloRequest>,
    ) -> std::result::Result<Reply<Self::KeepSayingHelloStream>, Status> {
        Ok(Reply::new(stream::empty()))
    }
}

pub(super) async fn plain(framework: &str, listener: tokio::net::TcpListener) -> Result<()> {
    match framework {
        "axum" => axum::serve(listener, router()).await?,
        "hyper" => loop {
            let (stream, _peer) = listener.accept().await?;
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(hello)));
        },
        "poem" => {
            let acceptor = TcpAcceptor::from_tokio(listener)?;
            poem::Server::new_with_acceptor(acceptor).run(poem_route()).await?;
        }
        "tonic" => {
            let incoming = connections(listener);
            let mut server = tonic::transport::Server::builder();
            server.add_service(GreeterServer::new(Hello)).serve_with_incoming(incoming).await?;
        }
        _ => return Err(format!("no such framework: {framework}").into()),
    }
    Ok(())
}

fn connections(listener: tokio::net::TcpListener) -> impl Stream<Item = io::Result<tokio::net::TcpStream>> {
    stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.and_then(|(stream, _peer)| {
            // As the server of tonic does with its own listener.
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        Some((accepted, listener))
    })
}

pub(super) fn managed(framework: &str, service: Service) -> ExitCode {
    let framework = framework.to_owned();
    service.listen("http", ANY_PORT).run(|start| {
        let upgrader: Upgrader = start.handle()?;
        let listener: TcpListener = start.listener("http")?;
        Ok(async move {
            announce(listener.local_addr()?, &upgrader);
            match framework.as_str() {
                "axum" => tableflip::http::serve(listener, router()).await,
                "hyper" => tableflip::http::serve(listener, service_fn(hello)).await,
                "poem" => {
                    let app = Arc::new(poem_route());
                    let serve = move |request: Request<Incoming>| {
                        let app = app.clone();
                        let (local, remote) = (LocalAddr::default(), RemoteAddr::default());
                        let request = (request, local, remote, Scheme::HTTP).into();
                        async move { Ok::<_, Infallible>(Response::from(app.get_response(request).await)) }
                    };
                    tableflip::http::serve(listener, service_fn(serve)).await
                }
                "tonic" => tableflip::http::serve(listener, GreeterServer::new(Hello)).await,
                _ => Err(io::Error::other(format!("no such framework: {framework}"))),
            }
        })
    })
}
