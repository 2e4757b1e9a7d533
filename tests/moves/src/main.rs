//! A service of HTTP/1.1 that writes each request into a journal, with the process and the client's port: the file of the variable
//! `JOURNAL`, which all generations append to.
//!
//! Each answer begins with the path of its request. The first part of the path says how the service answers:
//!
//! * `/whole/…`: reads the body to its end, and answers with it.
//! * `/stream/…`: sends each part of the body back as it arrives.
//! * `/slow/…`: the same as `/whole`, but the answer comes after [`SLOW`].
//! * `/drip/…`: the answer comes in [`DROPS`] parts, one each [`DROP`].
//! * `/unread/…`: answers 413, and does not read the body.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use tableflip::http::{PeerAddr, serve};
use tableflip::net::TcpListener;
use tokio::time::sleep;

const SLOW: Duration = Duration::from_millis(30);
const DROP: Duration = Duration::from_millis(5);
const DROPS: usize = 4;

/// A page for a browser, which asks for one path after the other and stops at the first wrong answer.
const PAGE: &str = "<!doctype html><link rel=icon href=data:,><script>
    (async () => {
        for (let number = 1; ; number++) {
            const path = `/whole/${number}`;
            if (await (await fetch(path)).text() !== path) throw new Error(path);
        }
    })();
</script>";

type Body = BoxBody<Bytes, hyper::Error>;

fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

fn failed(error: hyper::Error) -> io::Error {
    io::Error::other(error)
}

async fn answer(request: Request<Incoming>, journal: Arc<File>) -> io::Result<Response<Body>> {
    let PeerAddr(peer) = request.extensions().get::<PeerAddr<SocketAddr>>().expect("it is in each request");
    let path = request.uri().path().to_owned();
    // One write(2) to a file that is appended to: no two lines mix.
    (&*journal).write_all(format!("{} {} {path}\n", process::id(), peer.port()).as_bytes())?;
    let body = request.into_body();
    let way = path.split('/').nth(1).unwrap_or_default();
    Ok(match way {
        "unread" => {
            let mut answer = Response::new(text(path));
            *answer.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            answer
        }
        "page" => Response::new(text(PAGE)),
        "stream" => Response::new(stream(path, body)),
        "drip" => Response::new(drip(path)),
        _ => {
            let body = body.collect().await.map_err(failed)?.to_bytes();
            if way == "slow" {
                sleep(SLOW).await;
            }
            Response::new(text([path.as_bytes(), &body].concat()))
        }
    })
}

fn stream(path: String, mut body: Incoming) -> Body {
    let (mut sender, answer) = Channel::<Bytes, hyper::Error>::new(1);
    tokio::spawn(async move {
        let mut part = Bytes::from(path);
        loop {
            if sender.send_data(part).await.is_err() {
                return;
            }
            part = match body.frame().await {
                // Trailers have no data.
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return sender.abort(error),
                None => return,
            };
        }
    });
    answer.boxed()
}

fn drip(path: String) -> Body {
    let (mut sender, answer) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        let path = Bytes::from(path);
        for number in 0..DROPS {
            let part = path.slice(path.len() * number / DROPS..path.len() * (number + 1) / DROPS);
            if sender.send_data(part).await.is_err() {
                return;
            }
            sleep(DROP).await;
        }
    });
    answer.map_err(|never| match never {}).boxed()
}

#[tableflip::main(listen = [http = "tcp://127.0.0.1:0"])]
async fn main(http: TcpListener) -> io::Result<()> {
    let path = std::env::var_os("JOURNAL").ok_or_else(|| io::Error::other("there is no variable JOURNAL"))?;
    let journal = Arc::new(OpenOptions::new().create(true).append(true).open(path)?);
    serve(http, service_fn(move |request| answer(request, journal.clone()))).await
}
