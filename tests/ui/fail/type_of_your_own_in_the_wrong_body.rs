//! D11: a type says by its `BODY` for which body it is, also under another name and inside a `macro_rules!`.
use std::io;
use tableflip::{BodyKind, FromListener, ListenerSocket, address::Kind, blocking};

struct Lines(blocking::TcpListener);

impl FromListener for Lines {
    const MANAGED: bool = true;
    const KINDS: &'static [Kind] = &[Kind::Tcp];
    const BODY: BodyKind = blocking::TcpListener::BODY;

    fn from_listener(socket: ListenerSocket<'_>) -> io::Result<Self> {
        blocking::TcpListener::from_listener(socket).map(Lines)
    }
}

type Listener = Lines;

macro_rules! service {
    ($type:ty) => {
        #[tableflip::main(listen = [lines = "localhost:7"])]
        async fn main(lines: $type) {
            drop(lines.0);
        }
    };
}

service!(Listener);
