//! PostgreSQL.

use super::{Conversation, Down, Turns, Up, length, u32_at};

#[derive(Debug, Default)]
pub(super) struct Postgres {
    turns: Turns,
    up: Phase,
    /// The server's answer to a wish for encryption is one byte.
    asks_encryption: bool,
    /// It was ready for the first query.
    ready: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Messages without a type.
    #[default]
    Start,
    Typed,
    /// Encrypted.
    Unseen,
}

const ENCRYPTION: [u32; 2] = [80_877_103, 80_877_104];
const CANCEL: u32 = 80_877_102;

impl Conversation for Postgres {
    fn up(&mut self, bytes: &[u8]) -> Option<Up> {
        match self.up {
            Phase::Unseen => (!bytes.is_empty()).then_some(Up { length: bytes.len(), request: None, ..Up::default() }),
            Phase::Start => {
                let (length, code) = (length(u32_at(bytes, 0)?), u32_at(bytes, 4)?);
                if ENCRYPTION.contains(&code) {
                    self.asks_encryption = true;
                } else if code != CANCEL && bytes.len() >= length {
                    self.up = Phase::Typed;
                }
                (bytes.len() >= length).then_some(Up { length, request: None, ..Up::default() })
            }
            Phase::Typed => {
                let mut end = 0;
                loop {
                    let kind = *bytes.get(end)?;
                    end += 1 + length(u32_at(bytes, end + 1)?);
                    if bytes.len() < end {
                        return None;
                    }
                    match kind {
                        b'Q' | b'S' | b'F' => {
                            return Some(Up { length: end, request: Some(self.turns.ask()), ..Up::default() });
                        }
                        // Parts of a request that ends with a Sync.
                        b'P' | b'B' | b'D' | b'E' | b'C' => {}
                        _ => return Some(Up { length: end, request: None, ..Up::default() }),
                    }
                }
            }
        }
    }

    fn down(&mut self, bytes: &[u8]) -> Option<(usize, Down)> {
        let kind = *bytes.first()?;
        if self.up == Phase::Unseen {
            return Some((bytes.len(), Down::Other));
        }
        if std::mem::take(&mut self.asks_encryption) {
            if kind != b'N' {
                self.up = Phase::Unseen;
            }
            return Some((1, Down::Other));
        }
        let end = 1 + length(u32_at(bytes, 1)?);
        if bytes.len() < end {
            return None;
        }
        let what = match kind {
            b'Z' if !std::mem::replace(&mut self.ready, true) => Down::Other,
            b'Z' => self.turns.answer(),
            // Notifications, notices and settings come at any time.
            b'A' | b'N' | b'S' => Down::Other,
            _ => self.turns.next().map_or(Down::Other, Down::Part),
        };
        Some((end, what))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{downs, ups};
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    #[test]
    fn a_request_ends_with_its_sync_and_its_reply_with_ready() {
        let mut wire = Postgres::default();
        let start = [&12_u32.to_be_bytes()[..], &196_608_u32.to_be_bytes(), b"user"].concat();
        let wish = [&8_u32.to_be_bytes()[..], &ENCRYPTION[0].to_be_bytes()].concat();
        assert_eq!(ups(&mut wire, &wish), [(8, None)]);
        assert_eq!(downs(&mut wire, b"N"), [(1, Down::Other)]);
        assert_eq!(ups(&mut wire, &[start, message(b'p', b"secret\0")].concat()), [(12, None), (12, None)]);
        let greeting = [message(b'R', b"\0\0\0\0"), message(b'S', b"a\0b\0"), message(b'Z', b"I")].concat();
        assert!(downs(&mut wire, &greeting).iter().all(|unit| unit.1 == Down::Other));
        let asked = [message(b'B', b"key"), message(b'E', b""), message(b'S', b""), message(b'Q', b"x")].concat();
        assert_eq!(ups(&mut wire, &asked), [(18, Some(1)), (6, Some(2))]);
        let reply = [message(b'D', b"row"), message(b'A', b"told"), message(b'Z', b"I"), message(b'Z', b"I")].concat();
        let what: Vec<_> = downs(&mut wire, &reply).iter().map(|unit| unit.1).collect();
        assert_eq!(what, [Down::Part(1), Down::Other, Down::End(1), Down::End(2)]);
    }

    #[test]
    fn what_is_encrypted_passes_unseen() {
        let mut wire = Postgres::default();
        let wish = [&8_u32.to_be_bytes()[..], &ENCRYPTION[0].to_be_bytes()].concat();
        ups(&mut wire, &wish);
        assert_eq!(downs(&mut wire, b"S"), [(1, Down::Other)]);
        assert_eq!(wire.up(b"\x16\x03\x01abc"), Some(Up { length: 6, request: None, ..Up::default() }));
        assert_eq!(wire.down(b"\x16\x03"), Some((2, Down::Other)));
    }
}
