//! Redis.

use super::{Conversation, Down, Turns, Up};

#[derive(Debug, Default)]
pub(super) struct Resp(Turns);

/// Commands that RESP3 answers by pushes alone.
const PUSHED: [&[u8]; 6] =
    [b"SUBSCRIBE", b"UNSUBSCRIBE", b"PSUBSCRIBE", b"PUNSUBSCRIBE", b"SSUBSCRIBE", b"SUNSUBSCRIBE"];

impl Conversation for Resp {
    fn up(&mut self, bytes: &[u8]) -> Option<Up> {
        let (length, pushed) = if bytes.first()? == &b'*' {
            let length = value(bytes)?;
            (length, PUSHED.iter().any(|name| command(bytes).is_some_and(|command| command.eq_ignore_ascii_case(name))))
        } else {
            (line(bytes)?.1, false)
        };
        Some(Up { length, request: (!pushed).then(|| self.0.ask()), ..Up::default() })
    }

    fn down(&mut self, bytes: &[u8]) -> Option<(usize, Down)> {
        let length = value(bytes)?;
        Some((length, if bytes[0] == b'>' { Down::Other } else { self.0.answer() }))
    }
}

/// The first line without its end, and its length with it.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]), end + 1))
}

fn number(bytes: &[u8]) -> Option<usize> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The length of the first value, once it is there.
fn value(bytes: &[u8]) -> Option<usize> {
    let (first, mut length) = line(bytes)?;
    // A negative length is that of nothing.
    let count = first.get(1..).and_then(number).unwrap_or(0);
    let mut values = |count: usize| {
        for _ in 0..count {
            length += value(&bytes[length..])?;
        }
        Some(length)
    };
    match first.first()? {
        b'$' | b'!' | b'=' if first.get(1) != Some(&b'-') => {
            let end = length + count + 2;
            (bytes.len() >= end).then_some(end)
        }
        b'*' | b'~' | b'>' => values(count),
        b'%' => values(2 * count),
        // Attributes stand before the value that they are of.
        b'|' => values(2 * count + 1),
        _ => Some(length),
    }
}

/// The name of a command.
fn command(bytes: &[u8]) -> Option<&[u8]> {
    let (_, first) = line(bytes)?;
    let (size, second) = line(&bytes[first..])?;
    bytes.get(first + second..first + second + number(size.get(1..)?)?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{downs, ups};
    use super::*;

    #[test]
    fn replies_come_in_turn_and_pushes_between() {
        let mut wire = Resp::default();
        let sent = ups(&mut wire, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$9\r\nsubscribe\r\n$1\r\nc\r\nPING\r\n");
        assert_eq!(sent.iter().map(|unit| unit.1).collect::<Vec<_>>(), [Some(1), None, Some(2)]);
        let replies = b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n*3\r\n$-1\r\n*-1\r\n%1\r\n+a\r\n$2\r\n\r\n\r\n>1\r\n_\r\n-ERR no\r\n#t\r\n";
        let got = downs(&mut wire, replies);
        let what: Vec<_> = got.iter().map(|unit| unit.1).collect();
        assert_eq!(what, [Down::Other, Down::End(1), Down::Other, Down::End(2), Down::Other]);
    }
}
