//! A service with a configuration file, which its argument names: `echo PATH` and `greeting TEXT`, one a line. `--help` prints how
//! it is started. While it reads the file it runs a program, which writes the descriptors that it has to `children`.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs, process};

use tableflip::net::UnixListener;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[derive(Debug)]
struct Unreadable {
    file: String,
    source: io::Error,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot read {}", self.file)
    }
}

impl Error for Unreadable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

struct Config {
    echo: PathBuf,
    greeting: String,
    probation: Option<Duration>,
}

impl Config {
    fn load() -> Result<Self, Box<dyn Error + Send + Sync>> {
        let file = env::args().nth(1).ok_or("the argument is missing: the configuration file")?;
        if file == "--help" {
            println!("configured FILE");
            process::exit(0);
        }
        let text = fs::read_to_string(&file).map_err(|source| Unreadable { file, source })?;
        process::Command::new("/bin/sh").args(["-c", "echo $(ls /proc/self/fd) >> children"]).status()?;
        assert!(!text.starts_with("panic"), "no sense in {text}");
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.ok_or_else(|| format!("there is no `{name}`"))
        };
        let echo = env::current_dir()?.join(value("echo")?);
        Ok(Self { echo, greeting: value("greeting")?.to_owned(), probation: Some(Duration::from_millis(50)) })
    }
}

#[tableflip::main(config = Config::load()?, pidfile = "pid", listen = [echo = config.echo], probation = config.probation)]
async fn main(config: Config, echo: UnixListener) -> io::Result<()> {
    let greeting: &'static str = config.greeting.leak();
    loop {
        let (stream, _) = echo.accept().await?;
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await? > 0 {
                stream.write_all(format!("{greeting}\n").as_bytes()).await?;
            }
            io::Result::Ok(())
        });
    }
}
