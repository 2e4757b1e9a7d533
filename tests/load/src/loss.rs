//! How a request was lost, as an error of I/O: its kind is what the connection did, its text is the cause.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, ErrorKind};

use tokio_tungstenite::tungstenite::error::{Error as WebSocketError, ProtocolError};

/// A loss by an error of a library, and what was done when it came.
pub(crate) fn lost<E: Error + 'static>(what: impl Display) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let kind = kind(&error);
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        io::Error::new(kind, text)
    }
}

/// A loss by an answer that is not the right one.
pub(crate) fn bad(answer: impl Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, answer.to_string())
}

/// What the connection did, if the error or one of its causes says so. Any other is about what the peer has said.
fn kind(error: &(dyn Error + 'static)) -> ErrorKind {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind();
        }
        // It has no `source`.
        if let Some(error) = error.downcast_ref::<h2::Error>().and_then(h2::Error::get_io) {
            return error.kind();
        }
        let ended = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message)
            || matches!(
                error.downcast_ref(),
                Some(
                    WebSocketError::ConnectionClosed
                        | WebSocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake)
                )
            );
        if ended {
            return ErrorKind::UnexpectedEof;
        }
        next = error.source();
    }
    ErrorKind::InvalidData
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_connection_did_is_known_by_its_cause() {
        use ErrorKind::{ConnectionRefused, ConnectionReset, InvalidData, UnexpectedEof};
        let reset = || io::Error::from(ConnectionReset);
        let losses = [
            lost("connecting")(io::Error::from(ConnectionRefused)),
            lost("reading")(WebSocketError::Io(reset())),
            lost("reading")(WebSocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake)),
            lost("reading")(WebSocketError::Protocol(ProtocolError::InvalidOpcode(3))),
            lost("answer")(h2::Error::from(h2::Reason::PROTOCOL_ERROR)),
            bad("the answer is 503"),
        ];
        let kinds = losses.map(|loss| loss.kind());
        let expected =
            [ConnectionRefused, ConnectionReset, UnexpectedEof, InvalidData, InvalidData, InvalidData];
        assert_eq!(kinds, expected);
    }
}
