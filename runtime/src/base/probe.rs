//! The option `probe`: the grammar, and the text form.
//!
//! The attribute macro compiles this file as well, through a symbolic link. So the same code checks a literal at
//! compile time and an expression at the start of the service. The file therefore uses nothing but the standard
//! library.

use std::fmt;

/// The longest path, in bytes.
const MAX_PATH: usize = 4096;

/// A request that a prepared successor must answer before it serves.
///
/// As text: `GET /path`. The name of a listener may stand before it, and a status after it, as in
/// `http GET /healthz 204`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    listener: Option<String>,
    path: String,
    status: Option<u16>,
}

impl Probe {
    /// The name of the listener. `None` for the first declared TCP or Unix stream listener.
    pub fn listener(&self) -> Option<&str> {
        self.listener.as_deref()
    }

    /// The path of the request, with the query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The status that the answer must have. `None` for any status from 200 to 299.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Parses the text form. The error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let (listener, path, status) = match words[..] {
            [name, "GET", path] => (Some(name), path, None),
            [name, "GET", path, status] => (Some(name), path, Some(status)),
            ["GET", path] => (None, path, None),
            ["GET", path, status] => (None, path, Some(status)),
            _ => {
                return Err("expected `GET /path`, with the name of a listener before it or a status after it, such as \
                            `http GET /healthz 204`"
                    .to_owned());
            }
        };
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "the path begins with `/` and has visible characters of ASCII, others as `%C3%A9`".to_owned()
            );
        }
        if path.len() > MAX_PATH {
            return Err(format!("the path has {} bytes; it may have at most {MAX_PATH}", path.len()));
        }
        let status = status.map(parse_status).transpose()?;
        Ok(Self { listener: listener.map(str::to_owned), path: path.to_owned(), status })
    }
}

fn parse_status(text: &str) -> Result<u16, String> {
    let is_status = |status: &u16| (200..=599).contains(status);
    let status = text.parse().ok().filter(is_status).filter(|_| text.len() == 3);
    status.ok_or_else(|| {
        "the status after the path is a number from 200 to 599; without one, 200 to 299 pass".to_owned()
    })
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(listener) = &self.listener {
            write!(f, "{listener} ")?;
        }
        write!(f, "GET {}", self.path)?;
        self.status.map_or(Ok(()), |status| write!(f, " {status}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_its_own_form() {
        for text in ["GET /", "GET /a?b=c%20d 204", "http GET /healthz", "GET GET /x 500"] {
            assert_eq!(Probe::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Probe::parse("  a  GET\t/ ").unwrap().to_string(), "a GET /");
    }

    #[test]
    fn what_is_no_probe_is_told() {
        for text in ["", "GET", "/healthz", "POST /", "get /", "a b GET /", "GET / 200 x"] {
            assert!(Probe::parse(text).unwrap_err().starts_with("expected `GET /path`"), "{text}");
        }
        for text in ["GET healthz", "a GET http://b/", "GET /\u{e9}", "GET /\0"] {
            assert!(Probe::parse(text).unwrap_err().starts_with("the path begins with `/`"), "{text}");
        }
        for text in ["GET / 99", "GET / 199", "GET / 600", "GET / 0200", "GET / ok", "GET / +20"] {
            assert!(Probe::parse(text).unwrap_err().starts_with("the status after the path"), "{text}");
        }
        assert!(Probe::parse(&format!("GET /{}", "a".repeat(MAX_PATH))).unwrap_err().contains("4097 bytes"));
    }
}
