//! The settings of HTTP, by hyper's names.

use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::activity::Version;

/// How long a client has for its handshake, and for the head of a request from its first byte on.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// What the connections need of a [`Builder`](super::Builder).
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) http1: Http1,
    pub(super) http2: Http2,
    /// The one version that is served.
    pub(super) only: Option<Version>,
    pub(super) head_limit: Option<Duration>,
    /// Connections come from the predecessor, and move to the successor.
    pub(super) moves: bool,
}

/// The settings of HTTP/1.1, made by [`Builder::http1`](super::Builder::http1).
#[derive(Clone, Debug)]
pub struct Http1 {
    pub(super) hyper: http1::Builder,
}

/// The settings of HTTP/2, made by [`Builder::http2`](super::Builder::http2).
#[derive(Clone, Debug)]
pub struct Http2 {
    pub(super) hyper: http2::Builder<TokioExecutor>,
}

impl Settings {
    pub(super) fn new() -> Self {
        // Without a timer, so without hyper's limit for the head of a request. That limit counts from the last answer on: it
        // would close idle connections, and lose the requests that cross the close.
        let http1 = Http1 { hyper: http1::Builder::new() };
        let mut http2 = Http2 { hyper: http2::Builder::new(TokioExecutor::new()) };
        // The timer is for the keep-alive; WebSockets need the protocol of RFC 8441.
        http2.hyper.timer(TokioTimer::new()).enable_connect_protocol();
        Self { http1, http2, only: None, head_limit: Some(HEAD_LIMIT), moves: true }
    }

    /// Whether connections of HTTP/1.1 move.
    pub(super) fn move_http_1(&self) -> bool {
        self.moves && self.only != Some(Version::Http2)
    }
}

macro_rules! settings {
    ($type:ident, $($(#[$doc:meta])* $name:ident: $value:ty;)*) => {
        impl $type {$(
            $(#[$doc])*
            pub fn $name(&mut self, value: $value) -> &mut Self {
                self.hyper.$name(value);
                self
            }
        )*}
    };
}

settings! {
    Http1,
    /// The highest number of headers of a request. One with more is answered with 431. The default is hyper's, 100.
    max_headers: usize;
    /// The highest number of bytes of the head of a request, from its first line on. A larger one is answered with 431. By
    /// default only [`max_buf_size`](Self::max_buf_size) limits it.
    max_header_size: usize;
    /// The highest number of bytes of the buffer of a connection, and so of the head of a request. The default is hyper's,
    /// about 400 KiB.
    ///
    /// # Panics
    ///
    /// If it is less than 8192.
    max_buf_size: usize;
    /// Whether a connection stays open after an answer. The default is true.
    keep_alive: bool;
    /// Whether a client that has shut down its side of the connection still gets its answer. The default is false.
    half_close: bool;
    /// Whether answers have a header `Date`, RFC 9110 section 6.6.1. The default is true.
    auto_date_header: bool;
    /// Whether a line of the head that is no header is passed over, instead of an answer with 400. The default is false.
    ignore_invalid_headers: bool;
    /// Whether answers repeat the case of the names of headers that the service has passed through. The default is false.
    preserve_header_case: bool;
    /// Whether the names of headers in answers have capital letters. The default is false.
    title_case_headers: bool;
    /// Whether writes to a stream are vectored. By default hyper decides for each stream.
    writev: bool;
}

settings! {
    Http2,
    /// SETTINGS_MAX_CONCURRENT_STREAMS: how many requests a client may have open at once on a connection. `None` sets no
    /// limit. The default is hyper's, 200.
    max_concurrent_streams: impl Into<Option<u32>>;
    /// The time after which a silent connection gets a PING, by which a client that is gone is found. `None`, which is the
    /// default, sends none.
    keep_alive_interval: impl Into<Option<Duration>>;
    /// How long the answer to that PING may take before the connection is closed. The default is hyper's, 20 s.
    keep_alive_timeout: Duration;
    /// SETTINGS_INITIAL_WINDOW_SIZE: how many bytes of the body of one request a client may send before the service has
    /// read them. The default is hyper's.
    initial_stream_window_size: impl Into<Option<u32>>;
    /// The same for all requests of a connection together.
    initial_connection_window_size: impl Into<Option<u32>>;
    /// Whether the two windows follow the throughput and the latency of the connection. The default is false.
    adaptive_window: bool;
    /// SETTINGS_MAX_FRAME_SIZE: the highest number of bytes of a frame of a client. The default is hyper's.
    max_frame_size: impl Into<Option<u32>>;
    /// SETTINGS_MAX_HEADER_LIST_SIZE: the highest number of bytes of the headers of a request, uncompressed. The default is
    /// hyper's, 16 KiB.
    max_header_list_size: u32;
    /// SETTINGS_HEADER_TABLE_SIZE: the highest number of bytes of the table that compresses headers. The default is that of
    /// the crate h2, 4096.
    header_table_size: impl Into<Option<u32>>;
    /// The highest number of bytes of an answer that wait to be written. The default is hyper's, about 400 KiB.
    ///
    /// # Panics
    ///
    /// If it is more than `u32::MAX`.
    max_send_buf_size: usize;
    /// How many requests that the client has reset, and that the service has not seen yet, may wait before the connection
    /// ends. The default is that of the crate h2, 20.
    max_pending_accept_reset_streams: impl Into<Option<usize>>;
    /// How many requests with an error of the client the service resets before the connection ends. `None` sets no limit,
    /// which lets a client cost the service as much as it likes. The default is hyper's, 1024.
    max_local_error_reset_streams: impl Into<Option<usize>>;
    /// Whether answers have a header `Date`, RFC 9110 section 6.6.1. The default is true.
    auto_date_header: bool;
}
