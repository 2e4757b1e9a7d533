use tableflip::{Listeners, StartError, blocking, net};

#[tableflip::main(listen = [http = "tcp://127.0.0.1:0", dns = "udp://127.0.0.1:0"])]
async fn tasks(listeners: Listeners) -> Result<(), StartError> {
    let http: net::TcpListener = listeners.declared("http")?;
    let dns = listeners.declared::<net::UdpSocket>("dns")?;
    drop((http, dns));
    Ok(())
}

// One of them is a parameter.
#[tableflip::main(listen = [http = "tcp://127.0.0.1:0", dns = "udp://127.0.0.1:0"])]
fn threads(listeners: Listeners, dns: blocking::UdpSocket) -> Result<(), StartError> {
    let http: blocking::TcpListener = listeners.declared("http")?;
    drop((http, dns));
    Ok(())
}

fn main() {
    if std::env::args().count() > 1000 {
        let _ = (tasks(), threads());
    }
}
