//! An axum application with a state and a background task: HTTP/1.1 and HTTP/2 on one port, and no request is lost at an
//! upgrade.
//!
//! Run it with `cargo run -p axum-hello`, ask it with `curl http://127.0.0.1:8080/`, and replace it with
//! `kill -HUP $(cat axum-hello.pid)`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::{Router, routing::get};
use tableflip::net::TcpListener;
use tokio::time;

/// The state of this process. A successor begins anew.
#[derive(Clone, Default)]
struct Visits(Arc<AtomicU64>);

async fn hello(State(visits): State<Visits>) -> &'static str {
    visits.0.fetch_add(1, Ordering::Relaxed);
    "Hello, World!"
}

async fn report(visits: Visits) {
    let mut interval = time::interval(Duration::from_secs(60));
    loop {
        interval.tick().await;
        println!("{} visits so far", visits.0.load(Ordering::Relaxed));
    }
}

#[tableflip::main(pidfile = "axum-hello.pid", listen = [http = "tcp://127.0.0.1:8080"])]
async fn main(http: TcpListener) -> io::Result<()> {
    let visits = Visits::default();
    let app = Router::new().route("/", get(hello)).with_state(visits.clone());
    let reports = tokio::spawn(report(visits.clone()));
    // Returns when the process is replaced or stopped, and every connection has ended.
    tableflip::http::serve(http, app).await?;
    reports.abort();
    println!("{} visits in all", visits.0.load(Ordering::Relaxed));
    Ok(())
}
