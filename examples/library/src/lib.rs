//! A service in a library: `main` calls [`serve`], and so does the unit test.
//!
//! Run it with `cargo run -p library-lines`, talk to it with `nc 127.0.0.1 7002`, and replace it with
//! `kill -HUP $(cat library-lines.pid)`. A line comes back in the other order.

use std::io;
use std::net::SocketAddr;

use tableflip::net::{TcpListener, TcpStream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// What the service is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What ends each answer.
    pub ending: String,
}

async fn converse(mut stream: TcpStream, ending: &str) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let reversed: String = line.chars().rev().collect();
        write.write_all(format!("{reversed}{ending}\n").as_bytes()).await?;
    }
    Ok(())
}

/// Runs the service.
#[tableflip::main(name = "library-lines", pidfile = "library-lines.pid", listen = [lines = config.listen])]
pub async fn serve(config: Config, lines: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _peer) = lines.accept().await?;
        let ending = config.ending.clone();
        tokio::spawn(async move { converse(stream, &ending).await });
    }
}

#[cfg(test)]
mod tests {
    use tableflip::testing::Program;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// The service as it stands. In a test it gets a free port.
    fn service(ending: &str) -> Program {
        let config = Config { listen: "127.0.0.1:7002".parse().unwrap(), ending: ending.to_owned() };
        Program::new(|| serve(config)).variable("TABLEFLIP_PROBATION", "0s")
    }

    async fn ask(address: SocketAddr, line: &str) -> io::Result<String> {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(line.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_line_comes_back_in_the_other_order_and_a_release_may_change_its_ending() {
        let old = service("").start().unwrap();
        let address = old.address("lines").unwrap();
        assert_eq!(ask(address, "abc\n").await.unwrap(), "cba\n");

        let new = old.replace_program(service("!")).unwrap();
        assert_eq!(ask(address, "abc\n").await.unwrap(), "cba!\n");
        assert_eq!(new.upgrader().generation(), 2);
        new.stop();
        ask(address, "abc\n").await.unwrap_err();
    }
}
