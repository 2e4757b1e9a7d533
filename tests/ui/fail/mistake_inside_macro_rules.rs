macro_rules! service {
    ($address:literal) => {
        #[tableflip::main(listen = [echo = $address])]
        async fn main(echo: tableflip::net::TcpListener) {
            drop(echo);
        }
    };
}

service!("tcp://127.0.0.1");
