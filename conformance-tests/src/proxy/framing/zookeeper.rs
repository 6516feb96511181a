//! ZooKeeper.

use super::{Conversation, Down, Up, length, u32_at};

/// The first frame each way is the session's, without an xid.
#[derive(Debug, Default)]
pub(super) struct ZooKeeper {
    asked: bool,
    answered: bool,
}

fn frame(bytes: &[u8]) -> Option<(usize, Option<u32>)> {
    let end = 4 + length(u32_at(bytes, 0)?);
    (bytes.len() >= end).then(|| (end, u32_at(bytes, 4)))
}

/// The xids of requests count up from 0; events, pings, authentication and watches have negative ones.
fn number(xid: Option<u32>) -> Option<u64> {
    xid.filter(|xid| *xid <= i32::MAX.unsigned_abs()).map(u64::from)
}

impl Conversation for ZooKeeper {
    fn up(&mut self, bytes: &[u8]) -> Option<Up> {
        let (length, xid) = frame(bytes)?;
        let request = number(xid).filter(|_| std::mem::replace(&mut self.asked, true));
        self.asked = true;
        Some(Up { length, request, ..Up::default() })
    }

    fn down(&mut self, bytes: &[u8]) -> Option<(usize, Down)> {
        let (length, xid) = frame(bytes)?;
        let answers = number(xid).filter(|_| self.answered);
        self.answered = true;
        Some((length, answers.map_or(Down::Other, Down::End)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{downs, ups};
    use super::*;

    pub(super) fn frame(xid: i32, body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(body.len() + 4).expect("short");
        [&size.to_be_bytes()[..], &xid.to_be_bytes(), body].concat()
    }

    #[test]
    fn replies_have_their_requests_xid_and_pings_are_none() {
        let mut wire = ZooKeeper::default();
        let sent = [frame(0, b"connect"), frame(1, b"/key"), frame(-2, b"ping"), frame(-8, b"watches"), frame(2, b"x")];
        let asked: Vec<_> = ups(&mut wire, &sent.concat()).iter().map(|unit| unit.1).collect();
        assert_eq!(asked, [None, Some(1), None, None, Some(2)]);
        let replies = [frame(0, b"session"), frame(-2, b""), frame(1, b"reply"), frame(-1, b"event"), frame(2, b"")];
        let what: Vec<_> = downs(&mut wire, &replies.concat()).iter().map(|unit| unit.1).collect();
        assert_eq!(what, [Down::Other, Down::Other, Down::End(1), Down::Other, Down::End(2)]);
    }
}
