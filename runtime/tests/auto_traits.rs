//! Every public type is `Send`, `Sync` and `Unpin`. A change of that breaks the code of users, and stands nowhere else.

use tableflip::{blocking, testing};

const fn is<T: Send + Sync + Unpin>() {}
const fn moves<T: Send + Unpin>() {}

// It has a `main` and a configuration, of which one thread has no use after another has them.
const _: () = moves::<testing::Program>();

/// Checks at compile time, and names the types for the test below.
macro_rules! every {
    ($name:ident: $($type:ty),+ $(,)?) => {
        $(const _: () = is::<$type>();)+
        #[allow(dead_code, reason = "the test needs the names of every feature")]
        const $name: &[&str] = &[$(stringify!($type)),+];
    };
}

every! { ALWAYS:
    tableflip::Address,
    tableflip::BodyKind,
    tableflip::ControlPath,
    tableflip::Failure,
    tableflip::Guard,
    tableflip::Inherited,
    tableflip::ListenerSocket<'static>,
    tableflip::Listeners,
    tableflip::ListeningSocket,
    tableflip::Overlap,
    tableflip::ParseOptionError,
    tableflip::PassOnError,
    tableflip::Probe,
    tableflip::Ready,
    tableflip::RevertError,
    tableflip::Reverted,
    tableflip::Service,
    tableflip::Shutdown,
    tableflip::Start,
    tableflip::StartError,
    tableflip::Supervise,
    tableflip::UpgradeError,
    tableflip::UpgradeSignal,
    tableflip::UpgradeStep,
    tableflip::Upgraded,
    tableflip::Upgrader,
    tableflip::address::Host,
    tableflip::address::Kind,
    tableflip::address::Options,
    tableflip::address::ParseAddressError,
    tableflip::address::Place,
    tableflip::control::Code,
    tableflip::control::Reply,
    tableflip::control::Request,
    tableflip::status::Executable,
    tableflip::status::FailedUpgrade,
    tableflip::status::Generation,
    tableflip::status::LastDrain,
    tableflip::status::Listener,
    tableflip::status::Outcome,
    tableflip::status::Phase,
    tableflip::status::PredecessorState,
    tableflip::status::Release,
    tableflip::status::Requester,
    tableflip::status::Status,
    tableflip::status::UpgradeRecord,
    tableflip::status::Upgrades,
    blocking::Incoming<'static, blocking::TcpListener>,
    blocking::TcpListener,
    blocking::Resumed<blocking::TcpStream>,
    blocking::TcpStream,
    blocking::UdpSocket,
    blocking::Woken,
    tableflip::Session,
    tableflip::StateError,
    tableflip::status::Moves,
    testing::Running<String>,
}

#[cfg(unix)]
every! { THREADS_ON_UNIX: blocking::UnixDatagram, blocking::UnixListener, blocking::UnixStream }

#[cfg(feature = "tokio")]
every! { TOKIO:
    tableflip::Flavor,
    tableflip::net::Incoming<tableflip::net::TcpListener>,
    tableflip::net::OwnedReadHalf<tokio::net::tcp::OwnedReadHalf>,
    tableflip::net::OwnedWriteHalf<tokio::net::tcp::OwnedWriteHalf>,
    tableflip::net::Offer<tableflip::net::TcpStream>,
    tableflip::net::Resumed<tableflip::net::TcpStream>,
    tableflip::net::ReuniteError<tokio::net::tcp::OwnedReadHalf, tokio::net::tcp::OwnedWriteHalf>,
    tableflip::net::TcpListener,
    tableflip::net::TcpStream,
    tableflip::net::UdpSocket,
}

#[cfg(all(feature = "tokio", unix))]
every! { TOKIO_ON_UNIX:
    tableflip::net::UnixDatagram,
    tableflip::net::UnixListener,
    tableflip::net::UnixStream,
}

#[cfg(feature = "http")]
every! { HTTP:
    tableflip::http::Builder,
    tableflip::http::Connection<tableflip::net::TcpStream>,
    tableflip::http::Http1,
    tableflip::http::Http2,
    tableflip::http::Hyper,
    tableflip::http::Make,
    tableflip::http::PeerAddr<std::net::SocketAddr>,
    tableflip::http::Stays,
    tableflip::http::Tower,
    tableflip::http::WithConnectInfo<tableflip::net::TcpListener, fn()>,
    tableflip::http::WithHandshake<tableflip::net::TcpListener, fn(), fn()>,
}

#[cfg(feature = "websocket")]
every! { WEBSOCKET:
    tableflip::websocket::Parts<tableflip::net::TcpStream>,
    tableflip::websocket::Socket<tableflip::net::TcpStream>,
    tableflip::websocket::Tracked<tableflip::net::TcpStream>,
}

#[cfg(all(feature = "http", feature = "websocket"))]
every! { WEBSOCKET_HTTP:
    tableflip::websocket::Opening,
    tableflip::websocket::Upgraded,
}

#[cfg(feature = "cli")]
every! { CLI: tableflip::program::Commands }

/// With every feature.
#[cfg(all(feature = "cli", feature = "http", feature = "websocket", unix))]
mod sources {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::{ALWAYS, CLI, HTTP, THREADS_ON_UNIX, TOKIO, TOKIO_ON_UNIX, WEBSOCKET, WEBSOCKET_HTTP};

    /// Types that no code of a user names: of the attribute and of the program, and of sealed traits.
    const HIDDEN: &[&str] = &[
        "Package",
        "Probe",
        "Proven",
        "ReturnedWithError",
        "Seal",
        "Shaken",
        "Tag",
        "Type",
        "Unproven",
        "Unsent",
        "Unusable",
    ];

    /// The names of the public types in the sources. The lint `unreachable_pub` sees to it that a `pub` type is public.
    fn declared(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("src/bin") {
                continue;
            }
            if path.is_dir() {
                declared(&path, names);
                continue;
            }
            for line in fs::read_to_string(&path).unwrap().lines() {
                let words: Vec<_> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
                let at = words.iter().position(|word| ["struct", "enum", "union"].contains(word));
                let Some(at) = at.filter(|_| line.trim_start().starts_with("pub ")) else { continue };
                names
                    .extend(words.get(at + 1).filter(|name| !name.is_empty()).map(|name| (*name).to_owned()));
            }
        }
    }

    #[test]
    fn every_public_type_is_checked() {
        let name = |path: &&str| {
            let path = path.split('<').next().unwrap();
            path.rsplit("::").next().unwrap().trim().to_owned()
        };
        let all =
            [ALWAYS, THREADS_ON_UNIX, TOKIO, TOKIO_ON_UNIX, HTTP, WEBSOCKET, WEBSOCKET_HTTP, CLI].concat();
        let checked: BTreeSet<_> = all.iter().chain(&["testing::Program"]).map(name).collect();
        let mut public = BTreeSet::new();
        declared(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut public);
        public.retain(|name| !HIDDEN.contains(&name.as_str()));
        assert!(public.len() > 40, "the sources are not read as they should be: {public:?}");
        let missing: Vec<_> = public.difference(&checked).collect();
        assert!(missing.is_empty(), "add a line for each: {missing:?}");
    }
}
