//! A path in JSON. JSON is text, and a path is bytes. For a path that is not UTF-8 the text is approximate, and the
//! exact bytes stand beside it in hexadecimal.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A path as text, and its bytes where the text is not exact.
pub(crate) fn encode(path: &Path) -> (String, Option<String>) {
    let bytes = || {
        let mut digits = String::new();
        for byte in path.as_os_str().as_encoded_bytes() {
            // Writing to a `String` cannot fail.
            _ = write!(digits, "{byte:02x}");
        }
        digits
    };
    (path.to_string_lossy().into_owned(), path.to_str().is_none().then(bytes))
}

/// The path that [`encode`] has written. Bytes that are not hexadecimal are ignored, like a field of a later release.
pub(crate) fn decode(text: String, bytes: Option<&str>) -> PathBuf {
    bytes.and_then(from_digits).unwrap_or_else(|| text.into())
}

#[cfg(unix)]
fn from_digits(digits: &str) -> Option<PathBuf> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes = digits.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
    Some(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes).into())
}

/// On other platforms the bytes of a path mean nothing to another process.
#[cfg(not(unix))]
fn from_digits(_digits: &str) -> Option<PathBuf> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_path_comes_back_as_it_was() {
        for path in [&b"/srv/echo"[..], "/srv/caf\u{e9}\n".as_bytes(), b"/srv/caf\xe9/svc", b"\xff", b""] {
            let path = Path::new(OsStr::from_bytes(path));
            let (text, bytes) = encode(path);
            assert_eq!(bytes.is_some(), path.to_str().is_none(), "{path:?}");
            assert_eq!(decode(text, bytes.as_deref()), path);
        }
        for garbled in ["2", "2g", "é", "+1"] {
            assert_eq!(decode("/srv/echo".to_owned(), Some(garbled)), Path::new("/srv/echo"), "{garbled}");
        }
    }
}
