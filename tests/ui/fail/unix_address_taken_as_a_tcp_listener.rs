#[tableflip::main(listen = [echo = "/run/echo.sock"])]
fn main(echo: std::net::TcpListener, ready: tableflip::Ready) {
    drop((echo, ready));
}
