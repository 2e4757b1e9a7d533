//! What travels with a connection besides its descriptor.

use std::fmt;
use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest name of a kind.
const MAX_KIND: usize = 64;

/// What a protocol knows of a connection that moves to the successor: `hand_over` of a stream takes it.
///
/// It has the *kind* of the connection, the state, and the bytes that were read and not used. The kind is the name of the
/// protocol with the version of the state, such as `chat/2`. The successor gets a connection only if it waits for this
/// kind. So a release that changes the state changes the kind. It may wait for the former kind too, and translate.
///
/// # Panics
///
/// [`new`](Self::new), if the kind is empty or longer than 64 bytes.
#[derive(Clone, PartialEq, Eq)]
#[must_use = "it is for `hand_over`"]
pub struct Session {
    pub(crate) kind: String,
    pub(crate) state: Vec<u8>,
    pub(crate) unread: Vec<u8>,
}

impl Session {
    /// A session of this kind, without a state and without unread bytes.
    pub fn new(kind: impl Into<String>) -> Self {
        Self { kind: checked(kind.into()), state: Vec::new(), unread: Vec::new() }
    }

    /// A session with the typed state of a connection.
    ///
    /// # Errors
    ///
    /// That of `T` for a value that JSON cannot express, such as a map whose keys are no strings.
    pub fn of<T: State>(state: &T) -> Result<Self, StateError> {
        let state = to_bytes(state)?;
        Ok(Self::new(T::KIND).state(state))
    }

    /// The state: what the successor needs to go on. It comes out of `Offer::state` as it is. State and unread bytes have at
    /// most 64 MiB together, or else the connection stays.
    pub fn state(mut self, state: impl Into<Vec<u8>>) -> Self {
        self.state = state.into();
        self
    }

    /// The bytes that were read of the stream and not used, for example `BufReader::buffer`. Whoever reads the stream next
    /// gets them first.
    pub fn unread(mut self, unread: impl Into<Vec<u8>>) -> Self {
        self.unread = unread.into();
        self
    }
}

impl fmt::Debug for Session {
    /// Without the bytes, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("kind", &self.kind)
            .field("state", &self.state.len())
            .field("unread", &self.unread.len())
            .finish()
    }
}

/// A kind that a process offers or takes.
pub(crate) fn checked(kind: String) -> String {
    assert!(
        !kind.is_empty() && kind.len() <= MAX_KIND,
        "the kind of a connection that moves has 1 to {MAX_KIND} bytes; `{kind}` has {}",
        kind.len()
    );
    kind
}

/// The typed state of a connection that moves, by serde: [`Session::of`] and `Offer::decode`. It travels as JSON.
///
/// ```
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Chat {
///     name: String,
///     sent: u64,
/// }
///
/// impl tableflip::State for Chat {
///     const KIND: &str = "chat/1";
/// }
///
/// let session = tableflip::Session::of(&Chat { name: "ada".into(), sent: 7 }).unwrap();
/// assert_eq!(format!("{session:?}"), r#"Session { kind: "chat/1", state: 23, unread: 0 }"#);
/// ```
pub trait State: Serialize + DeserializeOwned {
    /// The kind: the protocol with the version of this type. Change it with every change of the type that serde does not bridge,
    /// as `#[serde(default)]` bridges a new field.
    const KIND: &str;
}

/// A typed state that cannot be written, or that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a state of kind `{kind}`")]
pub struct StateError {
    kind: &'static str,
    #[source]
    source: Source,
}

/// For the `?` of a task that returns an `io::Result`. Its kind is `InvalidData`.
impl From<StateError> for io::Error {
    fn from(error: StateError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(upgrades)]
type Source = serde_json::Error;
#[cfg(not(upgrades))]
type Source = std::convert::Infallible;

#[cfg(upgrades)]
fn to_bytes<T: State>(state: &T) -> Result<Vec<u8>, StateError> {
    serde_json::to_vec(state).map_err(|source| StateError { kind: T::KIND, source })
}

/// Nothing moves, so nothing reads it.
#[cfg(not(upgrades))]
#[expect(clippy::unnecessary_wraps, reason = "its twin may fail")]
fn to_bytes<T: State>(_state: &T) -> Result<Vec<u8>, StateError> {
    Ok(Vec::new())
}

/// The typed state of an offer.
#[cfg(upgrades)]
pub(crate) fn from_bytes<T: State>(state: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(state).map_err(|source| StateError { kind: T::KIND, source })
}
