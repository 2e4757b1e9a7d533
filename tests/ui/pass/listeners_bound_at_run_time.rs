use tableflip::net::{TcpListener, UdpSocket};
use tableflip::{Inherited, Listeners, StartError};

#[tableflip::main(listen = [http = "tcp://127.0.0.1:0"])]
async fn service(listeners: Listeners, mut inherited: Inherited, http: TcpListener) -> Result<(), StartError> {
    let dns: UdpSocket = listeners.bind("dns", "udp://127.0.0.1:0")?;
    drop((inherited.take("lock"), http, dns));
    Ok(())
}

fn main() {
    if std::env::args().count() > 1000 {
        let _ = service();
    }
}
