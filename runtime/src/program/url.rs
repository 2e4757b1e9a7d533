//! A URL of HTTP, for `upgrade --report-get`.

use std::str::FromStr;

/// What a request needs of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    text: String,
    /// The host name or the address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The value of the field `Host`.
    pub(crate) authority: String,
    /// The path and the query.
    pub(crate) target: String,
}

impl Url {
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a URL such as `http://127.0.0.1:8080/healthz`";
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(format!("{bad:?} must be percent-encoded; {EXPECTED}"));
        }
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) => {
                return Err(format!("`{scheme}` is not supported, only plain `http`; {EXPECTED}"));
            }
            None => return Err(EXPECTED.to_owned()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(format!("a user name is not supported; {EXPECTED}"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) =
                    rest.split_once(']').ok_or_else(|| format!("`]` is missing; {EXPECTED}"))?;
                if !port.is_empty() && !port.starts_with(':') {
                    return Err(format!("`{port}` is no port; {EXPECTED}"));
                }
                (host, port.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            None => 80,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(format!("`{port}` is no port; {EXPECTED}")),
            },
        };
        if host.is_empty() {
            return Err(format!("the host is missing; {EXPECTED}"));
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self {
            text: text.to_owned(),
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            target: format!("{slash}{target}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_a_port_and_a_path() {
        for (text, host, port, authority, target) in [
            ("http://127.0.0.1:8080/healthz", "127.0.0.1", 8080, "127.0.0.1:8080", "/healthz"),
            ("HTTP://localhost", "localhost", 80, "localhost", "/"),
            ("http://[::1]:81?a=b#c", "::1", 81, "[::1]:81", "/?a=b"),
            ("http://[::1]/x", "::1", 80, "[::1]", "/x"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!(
                (&*url.host, url.port, &*url.authority, &*url.target),
                (host, port, authority, target),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bad_url_is_one_error_that_shows_a_good_one() {
        for (text, problem) in [
            ("https://localhost/", "`https` is not supported, only plain `http`"),
            ("localhost:8080", ""),
            ("http://", "the host is missing"),
            ("http://:80/", "the host is missing"),
            ("http://a:0/", "`0` is no port"),
            ("http://a:x/", "`x` is no port"),
            ("http://[::1/", "`]` is missing"),
            ("http://[::1]80/", "`80` is no port"),
            ("http://me@a/", "a user name is not supported"),
            ("http://a/b c", "' ' must be percent-encoded"),
            ("http://a/\r\nX: y", "'\\r' must be percent-encoded"),
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert!(error.starts_with(problem), "{text}: {error}");
            assert!(error.ends_with("expected a URL such as `http://127.0.0.1:8080/healthz`"), "{error}");
        }
    }
}
