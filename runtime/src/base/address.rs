//! Listen addresses: the grammar, and the text form.
//!
//! The attribute macro compiles this file as well, through a symbolic link. So the same code checks a literal at
//! compile time and an expression at the start of the service. The file therefore uses nothing but the standard
//! library.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

/// The longest path a Unix socket can be bound to: `sun_path` less the final NUL, unix(7).
const UNIX_PATH_MAX: usize = 107;

/// What kind of socket an [`Address`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// A listening TCP socket, `tcp://`, tcp(7).
    Tcp,
    /// A bound UDP socket, `udp://`, udp(7).
    Udp,
    /// A listening Unix stream socket, `unix://`, unix(7).
    Unix,
    /// A bound Unix datagram socket, `unix-dgram://`, unix(7).
    UnixDatagram,
    /// A listening Unix socket that keeps message boundaries, `unix-seqpacket://`, unix(7).
    UnixSeqpacket,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] =
        [Kind::Tcp, Kind::Udp, Kind::Unix, Kind::UnixDatagram, Kind::UnixSeqpacket];

    /// The scheme that asks for this kind, without `://`.
    pub const fn scheme(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Udp => "udp",
            Kind::Unix => "unix",
            Kind::UnixDatagram => "unix-dgram",
            Kind::UnixSeqpacket => "unix-seqpacket",
        }
    }

    /// Whether sockets of this kind have an IP address and a port.
    pub const fn is_ip(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Udp)
    }

    /// Whether sockets of this kind accept connections, listen(2).
    pub const fn is_listening(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Unix | Kind::UnixSeqpacket)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme())
    }
}

/// The host part of an IP address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Host {
    /// A name, resolved when the socket is bound.
    Name(String),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, written in brackets.
    V6(Ipv6Addr),
    /// An IPv6 address that is valid on one network interface only: `[fe80::1%eth0]`, RFC 4007.
    #[non_exhaustive]
    V6Scoped {
        /// The address.
        ip: Ipv6Addr,
        /// The interface: its name or its number.
        scope: String,
    },
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::V4(ip) => write!(f, "{ip}"),
            Host::V6(ip) => write!(f, "[{ip}]"),
            Host::V6Scoped { ip, scope } => write!(f, "[{ip}%{scope}]"),
        }
    }
}

/// Where a socket is bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Place {
    /// A host and a port. With port 0 the kernel chooses a free port.
    Ip {
        /// The host.
        host: Host,
        /// The port.
        port: u16,
    },
    /// An absolute path in the file system.
    Path(String),
    /// A name in the abstract namespace of Linux, without the leading `@`.
    Abstract(String),
}

/// The socket options that an address may carry after its `?`.
///
/// Where an option is `None`, the kernel's default stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Options {
    /// How many connections may wait to be accepted, listen(2). The kernel caps it at `net.core.somaxconn`.
    pub backlog: Option<u32>,
    /// `SO_REUSEPORT`, socket(7).
    pub reuse_port: Option<bool>,
    /// `IPV6_V6ONLY`, ipv6(7).
    pub v6only: Option<bool>,
    /// `TCP_NODELAY`, tcp(7). Accepted connections inherit it.
    pub nodelay: Option<bool>,
    /// `SO_KEEPALIVE`, socket(7). Accepted connections inherit it.
    pub keepalive: Option<bool>,
    /// `TCP_FASTOPEN`, tcp(7): how many handshakes with data may be pending.
    pub fastopen: Option<u32>,
    /// `IP_FREEBIND`, ip(7): the socket can be bound to an address that the machine does not have yet.
    pub freebind: Option<bool>,
    /// `SO_BINDTODEVICE`, socket(7).
    pub device: Option<String>,
    /// `SO_RCVBUF` in bytes, socket(7).
    pub recv_buffer: Option<u32>,
    /// `SO_SNDBUF` in bytes, socket(7).
    pub send_buffer: Option<u32>,
    /// The permission bits of a Unix path, written in octal, chmod(2).
    pub mode: Option<u32>,
    /// The owner of a Unix path: a name or a number, chown(2).
    pub user: Option<String>,
    /// The group of a Unix path: a name or a number, chown(2).
    pub group: Option<String>,
}

/// The sockets that an option is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Any,
    Listening,
    Ip,
    Tcp,
    UnixPath,
}

/// One option: its key, its scope, and the functions that read it from text and write it as text.
struct OptionRow {
    key: &'static str,
    scope: For,
    set: fn(&mut Options, &str) -> Result<(), String>,
    get: fn(&Options) -> Option<String>,
}

macro_rules! option_rows {
    ($($key:ident: $scope:ident, $parse:path, $print:path;)*) => {
        const OPTION_ROWS: &[OptionRow] = &[$(OptionRow {
            key: stringify!($key),
            scope: For::$scope,
            set: |options, text| { options.$key = Some($parse(text)?); Ok(()) },
            get: |options| options.$key.as_ref().map($print),
        }),*];
    };
}

option_rows! {
    backlog: Listening, parse_count, ToString::to_string;
    reuse_port: Ip, parse_switch, ToString::to_string;
    v6only: Ip, parse_switch, ToString::to_string;
    nodelay: Tcp, parse_switch, ToString::to_string;
    keepalive: Tcp, parse_switch, ToString::to_string;
    fastopen: Tcp, parse_count, ToString::to_string;
    freebind: Ip, parse_switch, ToString::to_string;
    device: Ip, parse_device, ToString::to_string;
    recv_buffer: Any, parse_count, ToString::to_string;
    send_buffer: Any, parse_count, ToString::to_string;
    mode: UnixPath, parse_mode, print_mode;
    user: UnixPath, parse_word, ToString::to_string;
    group: UnixPath, parse_word, ToString::to_string;
}

fn parse_count(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        // The kernel takes an int for each of these options.
        Ok(n) if (1..=i32::MAX as u32).contains(&n) => Ok(n),
        _ => Err("expected a number from 1 to 2147483647".to_owned()),
    }
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("expected `true` or `false`".to_owned()),
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(mode),
        _ => Err("expected permission bits in octal, such as `660`".to_owned()),
    }
}

fn print_mode(mode: &u32) -> String {
    format!("{mode:o}")
}

fn parse_word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c == ':') {
        return Err("expected a name or a number".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_device(text: &str) -> Result<String, String> {
    // IFNAMSIZ is 16, with the final NUL, netdevice(7).
    if text.is_empty() || text.len() > 15 || text.contains(|c: char| c.is_whitespace() || "/%".contains(c)) {
        return Err("expected the name of a network interface, such as `eth0`".to_owned());
    }
    Ok(text.to_owned())
}

/// Where a listener is bound, and its socket options.
///
/// ```text
/// tcp://HOST:PORT        bare HOST:PORT is the same
/// udp://HOST:PORT
/// unix:///path           bare /path is the same; unix:@name is in the abstract namespace
/// unix-dgram:///path     unix-seqpacket:///path
/// ?key=value&...         socket options, see `Options`
/// ```
///
/// `Display` writes the canonical form, which parses to an equal value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    kind: Kind,
    place: Place,
    options: Options,
}

impl Address {
    /// The kind of socket.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the socket is bound.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The socket options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The path in the file system, if the address has one.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Path(path) => Some(Path::new(path)),
            Place::Ip { .. } | Place::Abstract(_) => None,
        }
    }

    /// Makes the port of an IP address any free one.
    pub(crate) fn free_port(&mut self) {
        if let Place::Ip { port, .. } = &mut self.place {
            *port = 0;
        }
    }

    /// Whether both addresses have the same identity. It allocates nothing.
    pub(crate) fn is_at(&self, other: &Address) -> bool {
        self.kind == other.kind && self.place == other.place
    }

    /// The address without its options, in canonical form.
    ///
    /// A successor adopts a socket of its predecessor if the name of the listener and this identity are both the same.
    pub fn identity(&self) -> String {
        let scheme = self.kind.scheme();
        match &self.place {
            Place::Ip { host, port } => format!("{scheme}://{host}:{port}"),
            Place::Path(path) => format!("{scheme}://{path}"),
            Place::Abstract(name) => format!("{scheme}:@{name}"),
        }
    }
}

impl From<SocketAddr> for Address {
    /// The TCP address, without options.
    fn from(address: SocketAddr) -> Self {
        let host = match address.ip() {
            IpAddr::V4(ip) => Host::V4(ip),
            IpAddr::V6(ip) => match scope_of(address) {
                0 => Host::V6(ip),
                scope => Host::V6Scoped { ip, scope: scope.to_string() },
            },
        };
        let place = Place::Ip { host, port: address.port() };
        Self { kind: Kind::Tcp, place, options: Options::default() }
    }
}

fn scope_of(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identity())?;
        let mut separator = '?';
        for row in OPTION_ROWS {
            if let Some(value) = (row.get)(&self.options) {
                write!(f, "{separator}{}={value}", row.key)?;
                separator = '&';
            }
        }
        Ok(())
    }
}

/// Why a text is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseAddressError {
    message: String,
    at: Range<usize>,
}

impl ParseAddressError {
    fn new(message: impl Into<String>, at: Range<usize>) -> Self {
        Self { message: message.into(), at }
    }

    /// The bytes of the text that are wrong.
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }
}

impl fmt::Display for ParseAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseAddressError {}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseAddressError::new(
                "the address is empty; expected one such as `tcp://127.0.0.1:7000` or `unix:///run/a.sock`",
                0..0,
            ));
        }
        if let Some(at) = text.find(|c: char| c.is_control()) {
            let len = text[at..].chars().next().map_or(1, char::len_utf8);
            return Err(ParseAddressError::new("the address has a control character", at..at + len));
        }
        let question = text.find('?').unwrap_or(text.len());
        let base = &text[..question];
        let (kind, rest_at) = parse_scheme(base)?;
        let place =
            if kind.is_ip() { parse_ip(base, rest_at, kind)? } else { parse_unix(base, rest_at, kind)? };
        let mut options = Options::default();
        if question < text.len() {
            parse_options(text, question + 1, kind, &place, &mut options)?;
        }
        Ok(Self { kind, place, options })
    }
}

/// Finds the scheme. Returns the kind, and where the rest of the address begins.
fn parse_scheme(base: &str) -> Result<(Kind, usize), ParseAddressError> {
    if base.starts_with('/') {
        return Ok((Kind::Unix, 0));
    }
    for kind in Kind::ALL {
        let Some(rest) = base.strip_prefix(kind.scheme()) else { continue };
        if rest.starts_with("://") {
            return Ok((kind, kind.scheme().len() + 3));
        }
        // `unix:@name` is an abstract name. For the IP kinds `tcp:80` is a host with the name `tcp`.
        if !kind.is_ip() && rest.starts_with(':') {
            return Ok((kind, kind.scheme().len() + 1));
        }
    }
    if let Some(end) = base.find("://") {
        return Err(ParseAddressError::new(
            format!(
                "unknown scheme `{}`; expected one of `tcp`, `udp`, `unix`, `unix-dgram`, `unix-seqpacket`",
                &base[..end]
            ),
            0..end,
        ));
    }
    Ok((Kind::Tcp, 0))
}

fn parse_ip(base: &str, start: usize, kind: Kind) -> Result<Place, ParseAddressError> {
    let authority = &base[start..];
    let whole = start..base.len();
    let (host, port, port_at) = if authority.starts_with('[') {
        let Some(close) = authority.find(']') else {
            return Err(ParseAddressError::new("the bracket of the IPv6 address is not closed", whole));
        };
        let host = parse_v6(&authority[1..close], start + 1)?;
        match authority[close + 1..].strip_prefix(':') {
            Some(port) => (host, port, start + close + 2),
            None => return Err(missing_port(kind, whole)),
        }
    } else {
        let Some(colon) = authority.rfind(':') else {
            return Err(missing_port(kind, whole));
        };
        let host = &authority[..colon];
        let host_at = start..start + colon;
        if host.is_empty() {
            return Err(ParseAddressError::new(
                "the host is missing; write `0.0.0.0` or `[::]` for every address of the machine",
                whole,
            ));
        }
        if host.contains(':') {
            return Err(ParseAddressError::new(
                format!("an IPv6 address stands in brackets: `[{host}]`"),
                host_at,
            ));
        }
        (parse_host(host, host_at)?, &authority[colon + 1..], start + colon + 1)
    };
    if port.is_empty() {
        return Err(missing_port(kind, whole));
    }
    // `u16::from_str` takes a leading `+`. A port has none.
    match port.parse::<u16>() {
        Ok(number) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(Place::Ip { host, port: number }),
        _ => Err(ParseAddressError::new(
            format!("`{port}` is not a port; expected a number from 0 to 65535"),
            port_at..base.len(),
        )),
    }
}

/// Parses what stands in the brackets, which begins at `start`.
fn parse_v6(inside: &str, start: usize) -> Result<Host, ParseAddressError> {
    let end = start + inside.len();
    let (ip, scope) = match inside.split_once('%') {
        Some((ip, scope)) => (ip, Some(scope)),
        None => (inside, None),
    };
    let Ok(ip) = ip.parse::<Ipv6Addr>() else {
        return Err(ParseAddressError::new(format!("`{inside}` is not an IPv6 address"), start..end));
    };
    match scope {
        None => Ok(Host::V6(ip)),
        Some(scope) => match parse_device(scope) {
            Ok(scope) => Ok(Host::V6Scoped { ip, scope }),
            Err(expected) => Err(ParseAddressError::new(
                format!("`{scope}` is not the scope of an IPv6 address; {expected}"),
                end - scope.len()..end,
            )),
        },
    }
}

fn missing_port(kind: Kind, at: Range<usize>) -> ParseAddressError {
    ParseAddressError::new(
        format!("the port is missing; expected `{kind}://HOST:PORT`, with port 0 for any free one"),
        at,
    )
}

fn parse_host(host: &str, at: Range<usize>) -> Result<Host, ParseAddressError> {
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Host::V4(ip));
    }
    // Digits and dots alone are meant as an IPv4 address. A resolver would read `127.1` or `1.2.3` in its own way.
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(ParseAddressError::new(format!("`{host}` is not an IPv4 address"), at));
    }
    let valid = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > 253 || !name.split('.').all(valid) {
        return Err(ParseAddressError::new(format!("`{host}` is not a host name or an IP address"), at));
    }
    Ok(Host::Name(host.to_owned()))
}

fn parse_unix(base: &str, start: usize, kind: Kind) -> Result<Place, ParseAddressError> {
    let place = &base[start..];
    let whole = start..base.len();
    if let Some(name) = place.strip_prefix('@') {
        if name.is_empty() {
            return Err(ParseAddressError::new("the abstract name after `@` is empty", whole));
        }
        if name.len() > UNIX_PATH_MAX {
            return Err(too_long("abstract name", name, whole));
        }
        return Ok(Place::Abstract(name.to_owned()));
    }
    if !place.starts_with('/') {
        return Err(ParseAddressError::new(
            format!("the path of a Unix socket is absolute: `{kind}:///path`, or `{kind}:@name`"),
            if place.is_empty() { 0..base.len() } else { whole },
        ));
    }
    if place.ends_with('/') {
        return Err(ParseAddressError::new("the path of a Unix socket names a file, not a directory", whole));
    }
    if place.len() > UNIX_PATH_MAX {
        return Err(too_long("path", place, whole));
    }
    Ok(Place::Path(place.to_owned()))
}

fn too_long(what: &str, text: &str, at: Range<usize>) -> ParseAddressError {
    ParseAddressError::new(
        format!("the {what} of a Unix socket has at most {UNIX_PATH_MAX} bytes, this one has {}", text.len()),
        at,
    )
}

fn parse_options(
    text: &str,
    start: usize,
    kind: Kind,
    place: &Place,
    options: &mut Options,
) -> Result<(), ParseAddressError> {
    let mut at = start;
    for pair in text[start..].split('&') {
        let range = at..at + pair.len();
        at += pair.len() + 1;
        let Some((key, value)) = pair.split_once('=') else {
            return Err(ParseAddressError::new("a socket option is written `key=value`", range));
        };
        let key_at = range.start..range.start + key.len();
        let Some(row) = OPTION_ROWS.iter().find(|row| row.key == key) else {
            let known: Vec<_> = OPTION_ROWS
                .iter()
                .filter(|row| applies(row.scope, kind, place).is_ok())
                .map(|row| format!("`{}`", row.key))
                .collect();
            return Err(ParseAddressError::new(
                format!("unknown socket option `{key}`; expected one of {}", known.join(", ")),
                key_at,
            ));
        };
        if let Err(only) = applies(row.scope, kind, place) {
            return Err(ParseAddressError::new(format!("the socket option `{key}` is for {only}"), key_at));
        }
        if (row.get)(options).is_some() {
            return Err(ParseAddressError::new(format!("the socket option `{key}` is set twice"), key_at));
        }
        (row.set)(options, value).map_err(|expected| {
            ParseAddressError::new(
                format!("`{value}` is not a value of the socket option `{key}`; {expected}"),
                key_at.end + 1..range.end,
            )
        })?;
    }
    Ok(())
}

/// Whether an option of this scope is allowed here. The error names the sockets that the option is for.
fn applies(scope: For, kind: Kind, place: &Place) -> Result<(), &'static str> {
    let (fits, only) = match scope {
        For::Any => (true, ""),
        For::Listening => (kind.is_listening(), "sockets that accept connections"),
        For::Ip => (kind.is_ip(), "IP sockets"),
        For::Tcp => (kind == Kind::Tcp, "TCP sockets"),
        For::UnixPath => (matches!(place, Place::Path(_)), "Unix sockets that have a path"),
    };
    if fits { Ok(()) } else { Err(only) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error names the wrong bytes exactly: the compiler underlines them in the literal.
    #[test]
    fn an_error_names_the_part_that_is_at_fault() {
        for (text, part) in [
            ("", ""),
            ("tcp://h\u{85}st:80", "\u{85}"),
            ("http://127.0.0.1:80", "http"),
            ("tcp://[::1:80", "[::1:80"),
            ("udp://[fe80::x]:53", "fe80::x"),
            ("udp://[fe80::x%eth0]:53", "fe80::x%eth0"),
            ("udp://[fe80::1%]:53", ""),
            ("udp://[fe80::1%eth0%1]:53", "eth0%1"),
            ("[fe80::1%a-name-of-16-chs]:53", "a-name-of-16-chs"),
            ("tcp://[::1]?backlog=5", "[::1]"),
            ("localhost?backlog=5", "localhost"),
            ("tcp://:80?backlog=5", ":80"),
            ("tcp://::1:80", "::1"),
            ("127.0.0.1:?backlog=5", "127.0.0.1:"),
            ("tcp://127.0.0.1:70000?nodelay=1", "70000"),
            ("[::1]:+80", "+80"),
            ("tcp://127.1:80", "127.1"),
            ("udp://a..b:80", "a..b"),
            ("unix:?mode=660", "unix:"),
            ("unix:@?mode=660", "@"),
            ("unix://run/a.sock", "run/a.sock"),
            ("unix-dgram:///run/?mode=660", "/run/"),
            ("127.0.0.1:80?backlog=5&reuse_port", "reuse_port"),
            ("127.0.0.1:80?backlog=5&reuseport=1&nodelay=1", "reuseport"),
            ("udp://127.0.0.1:53?reuse_port=1&backlog=5", "backlog"),
            ("127.0.0.1:80?backlog=5&nodelay=1&backlog=6", "backlog"),
            ("127.0.0.1:80?backlog=many&nodelay=1", "many"),
            ("/run/a.sock?user=&mode=661", ""),
            ("/run/a.sock?user=a&mode=888", "888"),
        ] {
            let error = text.parse::<Address>().expect_err(text);
            assert_eq!(&text[error.at()], part, "{text}: {error}");
        }
        // Where a part occurs twice, the error names the second one.
        let twice = "127.0.0.1:80?backlog=5&nodelay=1&backlog=6";
        assert_eq!(twice.parse::<Address>().expect_err(twice).at(), 33..40);
        for place in ["/run/", "@"] {
            let long = format!("unix:{place}{}", "a".repeat(108));
            let error = long.parse::<Address>().expect_err(&long);
            let part = long.trim_start_matches("unix:");
            assert_eq!(&long[error.at()], part, "{error}");
        }
    }
}
