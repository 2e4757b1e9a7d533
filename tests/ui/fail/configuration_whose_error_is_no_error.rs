use tableflip::net::TcpListener;

struct Problem;

fn load() -> Result<u16, Problem> {
    Ok(7000)
}

#[tableflip::main(config = load()?, listen = [http = "tcp://127.0.0.1:7000"])]
async fn main(config: u16, http: TcpListener) {
    drop((config, http));
}
