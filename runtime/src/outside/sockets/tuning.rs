//! The options of a socket that belong to its open file description: noted before a successor gets the socket, and set back after
//! its death.

use std::io;
use std::os::fd::BorrowedFd;

use nix::libc;
use socket2::SockRef;

use super::queue::{accept_queue, is_shut_down, listen_again};
use super::sockopt::{get_bytes, set_bytes};
use crate::base::address::Kind;

/// The form of the value of an option, getsockopt(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Number,
    /// A number that the kernel doubles, socket(7).
    Doubled,
    /// A number: a listener without one answers 536, tcp(7).
    Segment,
    /// `struct linger`: the kernel keeps the time of a linger that is off.
    Linger,
    /// `struct timeval`.
    Time,
}

/// The value of an option. A shorter one has zeroes at the end.
type Value = [u8; 16];

const _: () = assert!(size_of::<libc::timeval>() <= size_of::<Value>());

impl Form {
    fn size(self) -> usize {
        match self {
            Self::Number | Self::Doubled | Self::Segment => size_of::<libc::c_int>(),
            Self::Linger => size_of::<libc::linger>(),
            Self::Time => size_of::<libc::timeval>(),
        }
    }

    fn get(self, fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<Value> {
        let mut value = Value::default();
        get_bytes(fd, level, option, &mut value[..self.size()])?;
        if self == Self::Linger && first(value) == 0 {
            value = Value::default();
        }
        Ok(value)
    }

    /// The value to set, so that the kernel answers `value`.
    fn to_set(self, mut value: Value) -> Value {
        const NO_SEGMENT: libc::c_int = 536;
        let number = first(value);
        let number = match self {
            Self::Doubled => number / 2,
            Self::Segment if number == NO_SEGMENT => 0,
            _ => number,
        };
        value[..size_of_val(&number)].copy_from_slice(&number.to_ne_bytes());
        value
    }
}

/// The number that a value begins with.
fn first(value: Value) -> libc::c_int {
    let [a, b, c, d, ..] = value;
    libc::c_int::from_ne_bytes([a, b, c, d])
}

/// An option that belongs to the open file description: its name, its level and its number.
type TuningRow = (&'static str, libc::c_int, libc::c_int, Form);

/// Since Linux 4.10, ipv6(7): the least hop count of a packet that the socket takes.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// The options that a release can change on a bound socket: those of an address, and the others that a
/// program sets on a listener because its connections inherit them.
///
/// Connections inherit TCP_WINDOW_CLAMP as well. It is missing here: a listener cannot remove its clamp.
const TUNING_ROWS: [TuningRow; 24] = [
    // Setting it enlarges a receive buffer that is too small for it.
    ("SO_RCVLOWAT", libc::SOL_SOCKET, libc::SO_RCVLOWAT, Form::Number),
    ("recv_buffer", libc::SOL_SOCKET, libc::SO_RCVBUF, Form::Doubled),
    ("send_buffer", libc::SOL_SOCKET, libc::SO_SNDBUF, Form::Doubled),
    // Setting a size locks it. Unlocked, the kernel adjusts the buffers of each TCP connection.
    ("SO_BUF_LOCK", libc::SOL_SOCKET, libc::SO_BUF_LOCK, Form::Number),
    ("keepalive", libc::SOL_SOCKET, libc::SO_KEEPALIVE, Form::Number),
    ("nodelay", libc::IPPROTO_TCP, libc::TCP_NODELAY, Form::Number),
    ("fastopen", libc::IPPROTO_TCP, libc::TCP_FASTOPEN, Form::Number),
    ("TCP_KEEPIDLE", libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, Form::Number),
    ("TCP_KEEPINTVL", libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, Form::Number),
    ("TCP_KEEPCNT", libc::IPPROTO_TCP, libc::TCP_KEEPCNT, Form::Number),
    ("TCP_DEFER_ACCEPT", libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, Form::Number),
    ("TCP_USER_TIMEOUT", libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, Form::Number),
    ("TCP_MAXSEG", libc::IPPROTO_TCP, libc::TCP_MAXSEG, Form::Segment),
    ("SO_LINGER", libc::SOL_SOCKET, libc::SO_LINGER, Form::Linger),
    ("SO_RCVTIMEO", libc::SOL_SOCKET, libc::SO_RCVTIMEO, Form::Time),
    ("SO_SNDTIMEO", libc::SOL_SOCKET, libc::SO_SNDTIMEO, Form::Time),
    // An IPv6 socket has both, for clients of IPv4.
    ("IP_TTL", libc::IPPROTO_IP, libc::IP_TTL, Form::Number),
    ("IP_MINTTL", libc::IPPROTO_IP, libc::IP_MINTTL, Form::Number),
    ("IP_TOS", libc::IPPROTO_IP, libc::IP_TOS, Form::Number),
    ("IPV6_UNICAST_HOPS", libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, Form::Number),
    ("IPV6_MINHOPCOUNT", libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, Form::Number),
    ("IPV6_TCLASS", libc::IPPROTO_IPV6, libc::IPV6_TCLASS, Form::Number),
    // IP_TOS sets it.
    ("SO_PRIORITY", libc::SOL_SOCKET, libc::SO_PRIORITY, Form::Number),
    ("SO_MARK", libc::SOL_SOCKET, libc::SO_MARK, Form::Number),
];

/// The values of the options that belong to the open file description, which every process that has the socket shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tuning {
    /// In the order of the rows; `None` for an option that this kind of socket, or this kernel, does not have.
    values: [Option<Value>; TUNING_ROWS.len()],
    /// Of a TCP listener.
    pub(super) backlog: Option<u32>,
}

impl Tuning {
    pub(super) fn of(kind: Kind, fd: BorrowedFd<'_>) -> Self {
        let value = |(_, level, option, form): TuningRow| {
            let is_known = level != libc::IPPROTO_TCP || kind == Kind::Tcp;
            is_known.then(|| form.get(fd, level, option).ok()).flatten()
        };
        let backlog = (kind == Kind::Tcp).then(|| accept_queue(fd)).flatten().map(|(_, backlog)| backlog);
        Self { values: TUNING_ROWS.map(value), backlog }
    }

    /// Sets the options that differ. Returns their names.
    ///
    /// # Errors
    ///
    /// The first option that could not be set, such as a mark or a high priority, which take CAP_NET_ADMIN. The others are set.
    pub(super) fn restore(&self, fd: BorrowedFd<'_>) -> io::Result<Vec<&'static str>> {
        let mut undone = Vec::new();
        let mut failed = Ok(());
        // In the order of the rows: setting a size locks its buffer.
        for ((name, level, option, form), before) in TUNING_ROWS.into_iter().zip(self.values) {
            let Some(before) = before else { continue };
            let set = || {
                let differs = form.get(fd, level, option)? != before;
                if differs {
                    set_bytes(fd, level, option, &form.to_set(before)[..form.size()])?;
                }
                Ok(differs)
            };
            match set() {
                Ok(true) => undone.push(name),
                Ok(false) => {}
                Err(error) => failed = failed.and(Err(named(name, error))),
            }
        }
        if let Some(before) = self.backlog.filter(|_| is_shut_down(fd)) {
            listen_again(fd, i32::try_from(before).unwrap_or(i32::MAX))?;
            undone.push("shutdown(2)");
        }
        let backlog = self.backlog.zip(accept_queue(fd).map(|(_, backlog)| backlog));
        if let Some((before, _)) = backlog.filter(|(before, now)| before != now) {
            SockRef::from(&fd).listen(i32::try_from(before).unwrap_or(i32::MAX))?;
            undone.push("backlog");
        }
        failed.map(|()| undone)
    }
}

fn named(option: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{option}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::bind::{BindError, try_bind};
    use super::*;

    /// Each option by itself: setting one may set another.
    #[test]
    fn f6_every_option_of_the_table_is_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let unix = format!("unix://{}", dir.path().join("sock").display());
        for address in ["tcp://127.0.0.1:0", "tcp://[::1]:0", "udp://127.0.0.1:0", "udp://[::1]:0", &unix] {
            let socket = try_bind("it", &address.parse().unwrap()).map_err(BindError::explained).unwrap();
            let fd = socket.fd.as_fd();
            let at_first = Tuning::of(socket.address.kind(), fd);
            for ((name, level, option, form), before) in TUNING_ROWS.into_iter().zip(at_first.values) {
                let Some(before) = before else { continue };
                let mut other = form.to_set(before);
                let number = match form {
                    Form::Number if name == "IP_TOS" || name == "IPV6_TCLASS" => 32,
                    Form::Number | Form::Linger | Form::Time => first(other) + 1,
                    Form::Doubled => first(other) + 4000,
                    Form::Segment => 1000,
                };
                other[..4].copy_from_slice(&number.to_ne_bytes());
                match set_bytes(fd, level, option, &other[..form.size()]) {
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                    result => result.unwrap_or_else(|error| panic!("{address} {name}: {error}")),
                }
                assert_ne!(Tuning::of(socket.address.kind(), fd), at_first, "{address} {name}");
                let undone = at_first.restore(fd).unwrap();
                assert!(undone.contains(&name), "{address} {name}: {undone:?}");
                assert_eq!(Tuning::of(socket.address.kind(), fd), at_first, "{address} {name}");
                assert_eq!(at_first.restore(fd).unwrap(), [""; 0], "{address} {name}");
            }
        }
        let has = |kind, address: &str, name: &str| {
            let socket = try_bind("it", &address.parse().unwrap()).map_err(BindError::explained).unwrap();
            let at = TUNING_ROWS.iter().position(|row| row.0 == name).unwrap();
            Tuning::of(kind, socket.fd.as_fd()).values[at].is_some()
        };
        assert!(
            has(Kind::Tcp, "tcp://127.0.0.1:0", "IP_TTL") && has(Kind::Udp, "udp://[::1]:0", "IPV6_TCLASS")
        );
        assert!(!has(Kind::Tcp, "tcp://127.0.0.1:0", "IPV6_TCLASS"));
    }
}
