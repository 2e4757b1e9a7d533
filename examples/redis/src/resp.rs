//! The commands and the replies of RESP2.

use std::io::{self, BufRead, Read};

fn line(text: &mut &[u8]) -> io::Result<String> {
    let mut line = Vec::new();
    text.read_until(b'\n', &mut line)?;
    let line = line.strip_suffix(b"\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(String::from_utf8_lossy(line).trim_end().to_owned())
}

/// How much of a command is kept.
const LONGEST: usize = 64 << 10;

/// Takes the whole commands off a text, and adds their replies.
pub(crate) fn answer(text: &mut Vec<u8>, replies: &mut String) -> io::Result<()> {
    let mut rest = &text[..];
    let error = loop {
        let mut after = rest;
        match command(&mut after) {
            Ok(words) => replies.push_str(&reply(&words)),
            Err(error) => break error,
        }
        rest = after;
    };
    text.drain(..text.len() - rest.len());
    let is_part = error.kind() == io::ErrorKind::UnexpectedEof && text.len() < LONGEST;
    if is_part { Ok(()) } else { Err(error) }
}

/// A command and its arguments: an array of bulk strings, or words on a line. `UnexpectedEof` if it is not whole.
fn command(text: &mut &[u8]) -> io::Result<Vec<String>> {
    let first = line(text)?;
    let Some(count) = first.strip_prefix('*') else {
        return Ok(first.split_whitespace().map(str::to_owned).collect());
    };
    let word = |_| {
        let length: u16 = line(text)?.trim_start_matches('$').parse().map_err(io::Error::other)?;
        let mut word = vec![0; usize::from(length) + 2];
        text.read_exact(&mut word)?;
        Ok(String::from_utf8_lossy(&word[..usize::from(length)]).into_owned())
    };
    (0..count.parse::<u8>().map_err(io::Error::other)?).map(word).collect()
}

fn reply(words: &[String]) -> String {
    let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    match (name.as_str(), words.get(1)) {
        ("PING", None) => "+PONG\r\n".to_owned(),
        ("PING" | "ECHO", Some(word)) => format!("${}\r\n{word}\r\n", word.len()),
        _ => format!("-ERR unknown command {name:?}\r\n"),
    }
}
