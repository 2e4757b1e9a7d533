//! An answer of HTTP/1.1, read as it arrives and judged by its status. It must be whole.

use std::mem;

use super::report::{MAX_REASON, printable};

/// The longest heads of an answer together, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The status that an answer must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Any from 200 to 299.
    Success,
    Code(u16),
    /// Any below 500.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only the program sends such requests"))]
    NoServerError,
}

/// An answer of HTTP/1.1 as far as it has arrived.
#[derive(Debug)]
pub(crate) struct Answer {
    expected: Expected,
    /// The longest body with its framing, in bytes.
    max_body: usize,
    stage: Stage,
    /// The bytes of the head that is not complete.
    head: Vec<u8>,
    /// The length of all heads so far.
    head_length: usize,
    /// The first line, once the head is complete.
    status: Option<Status>,
    /// The start of the body, for the reason of a failure.
    body: Vec<u8>,
    /// The length of the body with its framing.
    body_length: usize,
}

/// The status line of an answer.
#[derive(Debug)]
struct Status {
    code: u16,
    /// The code with the reason phrase.
    text: String,
}

#[derive(Debug)]
enum Stage {
    Head,
    /// The body ends with the connection.
    UntilEnd,
    /// So many bytes of the body are missing.
    Length(usize),
    Chunked(Chunk),
}

/// The place in a chunked body.
#[derive(Debug)]
enum Chunk {
    Size(usize),
    /// The rest of the line that has the size.
    Extension(usize),
    Data(usize),
    /// The end of the line behind the data.
    AfterData,
    /// A line of the trailer, and whether it has a byte.
    Trailer {
        is_empty: bool,
    },
}

impl Answer {
    pub(crate) fn new(expected: Expected, max_body: usize) -> Self {
        Self {
            expected,
            max_body,
            stage: Stage::Head,
            head: Vec::new(),
            head_length: 0,
            status: None,
            body: Vec::new(),
            body_length: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head_length == 0
    }

    /// Whether the status line and the fields after it have arrived.
    pub(crate) fn has_status(&self) -> bool {
        self.status.is_some()
    }

    /// Takes what has arrived. Returns the result once it is known.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Option<Result<(), String>> {
        while !bytes.is_empty() {
            let taken = match self.stage {
                Stage::Head => self.take_head(bytes),
                _ => self.take_body(bytes),
            };
            match taken {
                Ok(Progress::Taken(count)) => bytes = &bytes[count..],
                Ok(Progress::Complete) => return Some(self.verdict()),
                Err(problem) => return Some(Err(problem)),
            }
        }
        // The reason of a failure has room for no more of the body.
        let is_enough = self.status.is_some() && !self.is_expected() && self.body.len() >= MAX_REASON;
        is_enough.then(|| self.verdict())
    }

    /// The result of an answer after which nothing comes.
    pub(crate) fn end(&self, how: &str) -> Result<(), String> {
        match &self.stage {
            Stage::UntilEnd => self.verdict(),
            // The status is the better reason.
            Stage::Length(_) | Stage::Chunked(_) if !self.is_expected() => self.verdict(),
            Stage::Head | Stage::Length(_) | Stage::Chunked(_) => Err(how.to_owned()),
        }
    }

    pub(crate) fn is_missing(&self) -> String {
        match &self.status {
            None if self.is_empty() => "it gave no answer".to_owned(),
            None => "the head of its answer did not end".to_owned(),
            Some(status) => format!("it answered {}, and its answer did not end", status.text),
        }
    }

    fn take_head(&mut self, bytes: &[u8]) -> Result<Progress, String> {
        for (at, byte) in bytes.iter().enumerate() {
            self.head.push(*byte);
            self.head_length += 1;
            if self.head_length > MAX_HEAD {
                return Err(format!("the head of its answer is longer than {MAX_HEAD} bytes"));
            }
            let length = self.head.len();
            if length <= START.len() && self.head[..] != START[..length] {
                let shown = printable(&String::from_utf8_lossy(&bytes[..bytes.len().min(64)]));
                return Err(format!("its answer is not HTTP/1.1: {shown:?}"));
            }
            if *byte == b'\n' && (self.head.ends_with(b"\n\n") || self.head.ends_with(b"\n\r\n")) {
                let head = mem::take(&mut self.head);
                return self.read_head(&String::from_utf8_lossy(&head), at + 1);
            }
        }
        Ok(Progress::Taken(bytes.len()))
    }

    fn read_head(&mut self, head: &str, count: usize) -> Result<Progress, String> {
        let mut lines = head.lines();
        let line = lines.next().unwrap_or_default();
        let not_http = || format!("its answer is not HTTP/1.1: {:?}", printable(line));
        let (version, rest) = line.split_once(' ').ok_or_else(not_http)?;
        let digits = rest.get(..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let code: u16 = digits.and_then(|digits| digits.parse().ok()).ok_or_else(not_http)?;
        if !version.starts_with("HTTP/1.") || !rest[3..].is_empty() && !rest[3..].starts_with(' ') {
            return Err(not_http());
        }
        // An interim response. The answer is still to come.
        if (100..200).contains(&code) && code != 101 {
            return Ok(Progress::Taken(count));
        }
        self.status = Some(Status { code, text: printable(rest).trim_end().to_owned() });
        let fields = lines.filter_map(|line| line.split_once(':'));
        let (mut is_chunked, mut length) = (false, None);
        for (name, value) in fields {
            let value = value.trim();
            if name.eq_ignore_ascii_case("transfer-encoding") {
                is_chunked |= value.to_ascii_lowercase().ends_with("chunked");
            } else if name.eq_ignore_ascii_case("content-length") {
                let no_number =
                    || format!("the Content-Length of its answer is no number: {:?}", printable(value));
                length = Some(value.parse::<usize>().map_err(|_| no_number())?);
            }
        }
        self.stage = match length {
            _ if matches!(code, 204 | 304) => return Ok(Progress::Complete),
            _ if is_chunked => Stage::Chunked(Chunk::Size(0)),
            Some(0) => return Ok(Progress::Complete),
            Some(length) => Stage::Length(length),
            None => Stage::UntilEnd,
        };
        Ok(Progress::Taken(count))
    }

    fn take_body(&mut self, bytes: &[u8]) -> Result<Progress, String> {
        self.body_length += bytes.len();
        let is_complete = match &mut self.stage {
            Stage::Head => false,
            Stage::UntilEnd => {
                keep(bytes, &mut self.body);
                false
            }
            Stage::Length(missing) => {
                let count = bytes.len().min(*missing);
                *missing -= count;
                keep(&bytes[..count], &mut self.body);
                *missing == 0
            }
            Stage::Chunked(chunk) => {
                let mut is_complete = false;
                for byte in bytes {
                    is_complete = chunk.take(*byte, &mut self.body)?;
                    if is_complete {
                        break;
                    }
                }
                is_complete
            }
        };
        // The status is the better reason.
        if self.body_length > self.max_body && self.is_expected() {
            return Err(format!("the body of its answer is longer than {} bytes", self.max_body));
        }
        Ok(if is_complete { Progress::Complete } else { Progress::Taken(bytes.len()) })
    }

    fn is_expected(&self) -> bool {
        let Some(status) = &self.status else { return false };
        match self.expected {
            Expected::Success => (200..300).contains(&status.code),
            Expected::Code(code) => code == status.code,
            Expected::NoServerError => status.code < 500,
        }
    }

    fn verdict(&self) -> Result<(), String> {
        if self.is_expected() {
            return Ok(());
        }
        let status = self.status.as_ref().map(|status| status.text.as_str()).unwrap_or_default();
        let expected = match self.expected {
            Expected::Code(code) => format!(" instead of {code}"),
            Expected::Success | Expected::NoServerError => String::new(),
        };
        let body = printable(&String::from_utf8_lossy(&self.body));
        let body = if body.is_empty() { body } else { format!(": {body}") };
        Err(format!("it answered {status}{expected}{body}"))
    }
}

/// What every answer begins with.
const START: &[u8] = b"HTTP/1.";

enum Progress {
    /// So many bytes are taken, and more are to come.
    Taken(usize),
    Complete,
}

impl Chunk {
    /// Takes the next byte. Returns whether the body is complete.
    fn take(&mut self, byte: u8, body: &mut Vec<u8>) -> Result<bool, String> {
        let broken = || "the chunks of its answer are broken".to_owned();
        match self {
            Self::Size(size) => match (char::from(byte).to_digit(16), byte) {
                (Some(digit), _) => {
                    let digit = usize::try_from(digit).map_err(|_| broken())?;
                    *size =
                        size.checked_mul(16).and_then(|size| size.checked_add(digit)).ok_or_else(broken)?;
                }
                (None, b'\n') => *self = Self::after_size(*size),
                (None, b'\r' | b';' | b' ' | b'\t') => *self = Self::Extension(*size),
                (None, _) => return Err(broken()),
            },
            Self::Extension(size) if byte == b'\n' => *self = Self::after_size(*size),
            Self::Extension(_) => {}
            Self::Data(left) => {
                keep(&[byte], body);
                *left -= 1;
                if *left == 0 {
                    *self = Self::AfterData;
                }
            }
            Self::AfterData if byte == b'\n' => *self = Self::Size(0),
            Self::AfterData if byte == b'\r' => {}
            Self::AfterData => return Err(broken()),
            Self::Trailer { is_empty } => match byte {
                b'\n' if *is_empty => return Ok(true),
                b'\n' => *is_empty = true,
                b'\r' => {}
                _ => *is_empty = false,
            },
        }
        Ok(false)
    }

    fn after_size(size: usize) -> Self {
        if size == 0 { Self::Trailer { is_empty: true } } else { Self::Data(size) }
    }
}

/// Keeps as much of the body as the reason of a failure has room for.
fn keep(bytes: &[u8], body: &mut Vec<u8>) {
    let room = MAX_REASON.saturating_sub(body.len());
    body.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(expected: Expected, answer: &[u8], at_once: usize) -> Result<(), String> {
        let mut taken = Answer::new(expected, 65_536);
        for bytes in answer.chunks(at_once) {
            if let Some(ended) = taken.take(bytes) {
                return ended;
            }
        }
        taken.end("it ended")
    }

    /// The result of an answer, whatever the pieces are that it arrives in.
    fn judge(expected: Expected, answer: &str) -> Result<(), String> {
        let result = judged(expected, answer.as_bytes(), answer.len().max(1));
        for at_once in [1, 2, 7] {
            assert_eq!(judged(expected, answer.as_bytes(), at_once), result, "{answer:?} by {at_once}");
        }
        result
    }

    #[test]
    fn an_answer_is_judged_by_its_status_and_must_be_whole() {
        for whole in [
            "HTTP/1.1 200 OK\r\n\r\nfine",
            "HTTP/1.1 200 OK\n\nfine",
            "HTTP/1.0 299\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nA: b\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert_eq!(judge(Expected::Success, whole), Ok(()), "{whole:?}");
        }
        assert_eq!(judge(Expected::NoServerError, "HTTP/1.1 404 Not Found\r\n\r\n"), Ok(()));
        assert_eq!(judge(Expected::Code(503), "HTTP/1.1 503 Busy\r\n\r\n"), Ok(()));
        for (answer, problem) in [
            ("HTTP/1.1 500 Oh no\r\n\r\nno disk\nat all", "it answered 500 Oh no: no disk at all"),
            ("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "it answered 302 Found"),
            ("HTTP/1.1 500\r\nContent-Length: 99\r\n\r\nhalf", "it answered 500: half"),
            ("", "it ended"),
            ("HTTP/1.1 200 OK\r\nA: b", "it ended"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf", "it ended"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", "it ended"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhalf",
                "the chunks of its answer are broken",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
                "the chunks of its answer are broken",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                "the Content-Length of its answer is no number: \"-1\"",
            ),
            ("HTTP/1.1 2000 OK\r\n\r\n", "its answer is not HTTP/1.1: \"HTTP/1.1 2000 OK\""),
            ("HTTP/1.1\r\n\r\n", "its answer is not HTTP/1.1: \"HTTP/1.1\""),
        ] {
            assert_eq!(judge(Expected::Success, answer), Err(problem.to_owned()), "{answer:?}");
        }
        let other = judge(Expected::Code(204), "HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(other, Err("it answered 200 OK instead of 204".to_owned()));
        let garbage = judged(Expected::Success, b"SSH-2.0-x\r\n", 100);
        assert_eq!(garbage, Err("its answer is not HTTP/1.1: \"SSH-2.0-x\"".to_owned()));
    }

    /// An answer without end is no reason to keep all of it.
    #[test]
    fn an_answer_is_bounded() {
        let repeated = |start: &str, piece: &[u8], end: usize| {
            let mut answer = start.as_bytes().to_vec();
            while answer.len() < end {
                answer.extend_from_slice(piece);
            }
            judged(Expected::Success, &answer, 4096).unwrap_err()
        };
        let ok = "HTTP/1.1 200 OK\r\n";
        assert_eq!(repeated(ok, b"A: b\r\n", 100_000), "the head of its answer is longer than 16384 bytes");
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(repeated("", interim, 100_000), "the head of its answer is longer than 16384 bytes");
        let too_long = "the body of its answer is longer than 65536 bytes";
        assert_eq!(repeated(&format!("{ok}\r\n"), b"x", 100_000), too_long);
        let chunked = format!("{ok}Transfer-Encoding: chunked\r\n\r\n");
        assert_eq!(repeated(&chunked, b"1\r\nx\r\n", 100_000), too_long);
        let long = format!("{ok}Content-Length: 99999\r\n\r\n");
        assert_eq!(repeated(&long, b"x", 99_999), too_long);
        let failure = repeated("HTTP/1.1 500 No\r\n\r\n", b"x", 100_000);
        assert!(
            failure.starts_with("it answered 500 No: xxx") && failure.len() < 2 * MAX_REASON,
            "{failure}"
        );
    }
}
