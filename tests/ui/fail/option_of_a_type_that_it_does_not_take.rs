use std::net::Ipv4Addr;
use tableflip::Shutdown;

#[tableflip::main(pidfile = Ipv4Addr::LOCALHOST)]
async fn main(shutdown: Shutdown) {
    shutdown.await;
}
