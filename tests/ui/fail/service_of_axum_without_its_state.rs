//! A router of axum is a service once it has its state.
use axum::{Router, extract::State, routing::get};
use tableflip::net::TcpListener;

#[tableflip::main(listen = [http = "localhost:80"])]
async fn main(http: TcpListener) -> std::io::Result<()> {
    let app = Router::<u8>::new().route("/", get(async |State(number): State<u8>| number.to_string()));
    tableflip::http::serve(http, app).await
}
