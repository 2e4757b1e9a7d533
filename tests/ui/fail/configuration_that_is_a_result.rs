use tableflip::net::TcpListener;

struct Config {
    listen: String,
}

fn load() -> std::io::Result<Config> {
    Ok(Config { listen: std::fs::read_to_string("/etc/echo")? })
}

#[tableflip::main(config = load(), listen = [http = config.listen])]
async fn main(config: Config, http: TcpListener) {
    drop((config, http));
}
