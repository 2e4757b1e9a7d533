//! The hello world of each framework, as its own pages write it; for a protocol without a framework, the usual crate. The service
//! with tableflip is as the example writes it: where the example has a function for a connection, this compiles that function.

mod actix;
mod dns;
mod redis;
mod threads;
mod tls;
mod web;
mod websocket;

use std::env;
use std::process::ExitCode;

use crate::Result;
use crate::flavor::{DEFAULT, Flavor};
use crate::service::{listener, service};

const HELLO: &str = "Hello, World!";

/// As the framework's own pages write it. In the directory are the certificate and its key.
pub(crate) fn plain(framework: &str, directory: &str) -> Result<ExitCode> {
    env::set_current_dir(directory)?;
    match framework {
        "threads" => threads::plain()?,
        _ => DEFAULT.parse::<Flavor>()?.runtime()?.block_on(plain_async(framework))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn plain_async(framework: &str) -> Result<()> {
    if framework == "dns" {
        return Ok(dns::plain().await?);
    }
    let listener = listener()?;
    println!("{}", listener.local_addr()?);
    match framework {
        "actix-web" => actix::plain(listener).await?,
        "redis" => redis::serve(listener).await?,
        "tls" => tls::plain(listener).await?,
        "websocket" => websocket::plain(listener).await?,
        _ => web::plain(framework, listener).await?,
    }
    Ok(())
}

/// As the example does.
pub(crate) fn managed(framework: &str, directory: &str) -> Result<ExitCode> {
    env::set_current_dir(directory)?;
    let service = service(DEFAULT.parse()?);
    Ok(match framework {
        "actix-web" => actix::managed(service),
        "dns" => dns::managed(service),
        "redis" => redis::managed(service),
        "threads" => threads::managed(service),
        "tls" => tls::managed(service),
        "websocket" => websocket::managed(service),
        _ => web::managed(framework, service),
    })
}
