//! MySQL and MariaDB.

use super::{Conversation, Down, Turns, Up};

#[derive(Debug, Default)]
pub(super) struct MySql {
    turns: Turns,
    encrypted: bool,
}

/// Commands that are not answered: quit, long data, close statement.
const SILENT: [u8; 3] = [0x01, 0x18, 0x19];
/// The length of the packet with which a client turns to TLS.
const TLS_REQUEST: usize = 32;

impl Conversation for MySql {
    fn up(&mut self, bytes: &[u8]) -> Option<Up> {
        if self.encrypted {
            return (!bytes.is_empty()).then_some(Up { length: bytes.len(), request: None, ..Up::default() });
        }
        let [a, b, c, sequence] = super::head(bytes)?;
        let size = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
        if bytes.len() < 4 + size {
            return None;
        }
        self.encrypted = sequence == 1 && size == TLS_REQUEST;
        // Within the log-in the client's packets go on counting; a command begins anew.
        let asks = sequence == 0 && size > 0 && !SILENT.contains(&bytes[4]);
        Some(Up { length: 4 + size, request: asks.then(|| self.turns.ask()), ..Up::default() })
    }

    fn down(&mut self, bytes: &[u8]) -> Option<(usize, Down)> {
        (!bytes.is_empty()).then(|| (bytes.len(), self.turns.answer()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::ups;
    use super::*;

    fn packet(sequence: u8, body: &[u8]) -> Vec<u8> {
        [&[u8::try_from(body.len()).expect("short"), 0, 0, sequence], body].concat()
    }

    #[test]
    fn a_command_is_answered_by_what_comes_next() {
        let mut wire = MySql::default();
        assert_eq!(wire.down(b"greeting"), Some((8, Down::Other)));
        assert_eq!(ups(&mut wire, &packet(1, b"user and password")), [(21, None)]);
        assert_eq!(wire.down(b"ok"), Some((2, Down::Other)));
        assert_eq!(
            ups(&mut wire, &[packet(0, b"\x17key"), packet(0, b"\x19close")].concat()),
            [(8, Some(1)), (10, None)]
        );
        assert_eq!(wire.down(b"first"), Some((5, Down::End(1))));
        assert_eq!(wire.down(b"more rows"), Some((9, Down::Other)));
    }

    #[test]
    fn what_is_encrypted_passes_unseen() {
        let mut wire = MySql::default();
        assert_eq!(ups(&mut wire, &packet(1, &[0; TLS_REQUEST])), [(36, None)]);
        assert_eq!(wire.up(&[0x16, 3, 1]), Some(Up { length: 3, request: None, ..Up::default() }));
    }
}
