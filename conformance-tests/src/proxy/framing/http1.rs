//! HTTP/1.1.

use super::{Conversation, Down, Turns, Up};

#[derive(Debug, Default)]
pub(super) struct Http1(Turns);

impl Conversation for Http1 {
    fn up(&mut self, bytes: &[u8]) -> Option<Up> {
        let length = message(bytes)?;
        Some(Up { length, request: Some(self.0.ask()), ..Up::default() })
    }

    fn down(&mut self, bytes: &[u8]) -> Option<(usize, Down)> {
        let length = message(bytes)?;
        // `100 Continue` is not the answer yet.
        let preliminary = bytes.get(9..11).is_some_and(|code| code == b"10");
        Some((length, if preliminary { Down::Other } else { self.0.answer() }))
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|part| part == what)
}

/// The length of the first message, head and body, once it is there.
fn message(bytes: &[u8]) -> Option<usize> {
    let body = find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..body]).to_ascii_lowercase();
    let field = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    };
    let end = if field("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        body + chunks(&bytes[body..])?
    } else {
        body + field("content-length").and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    (bytes.len() >= end).then_some(end)
}

/// The length of a body in chunks, without trailers.
fn chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(bytes.get(at..)?, b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at += line + 2 + size + 2;
        if size == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{downs, ups};
    use super::*;

    #[test]
    fn a_message_is_its_head_and_body() {
        let mut wire = Http1::default();
        let post = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n{key}GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(ups(&mut wire, post).iter().map(|unit| unit.1).collect::<Vec<_>>(), [Some(1), Some(2)]);
        let replies = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\nHTTP/1.1 204 None\r\n\r\n";
        let what: Vec<_> = downs(&mut wire, replies).iter().map(|unit| unit.1).collect();
        assert_eq!(what, [Down::Other, Down::End(1), Down::End(2)]);
    }
}
