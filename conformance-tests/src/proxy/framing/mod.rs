//! [`Framing`]: where requests and replies begin and end.

mod http1;
mod http2;
mod mysql;
mod postgres;
mod resp;
mod zookeeper;

/// The protocol of a line: what the proxy must know of it to tell requests, their replies and the rest apart. It looks
/// at no payload.
///
/// | | a request | its reply |
/// |---|---|---|
/// | `Resp` | a command | the value in its turn; pushes are not counted |
/// | `Postgres` | all up to `Sync` or a simple query | all up to `ReadyForQuery`; notifications are not counted |
/// | `MySql` | a command packet | the first bytes that come after it: the client sends one at a time |
/// | `Http1` | a head and its body | a head and its body |
/// | `Http2` | a `DATA` frame: for gRPC, one message | the next `DATA` or the end of that stream |
/// | `ZooKeeper` | a frame with an xid that is no ping | the frame with that xid |
///
/// What is encrypted passes as it is, unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Redis, with RESP3: or RESP2 without subscriptions.
    Resp,
    /// PostgreSQL's messages.
    Postgres,
    /// Packets of MySQL and MariaDB.
    MySql,
    /// HTTP/1.1: DynamoDB.
    Http1,
    /// HTTP/2 without TLS: gRPC, and so etcd.
    Http2,
    /// ZooKeeper's frames.
    ZooKeeper,
}

impl Framing {
    /// Whether a request may be delivered twice on its connection: not where a reply's end is not known (`MySql`), or a
    /// request has a number of its own (`Http2`, `ZooKeeper`).
    pub fn can_repeat(self) -> bool {
        matches!(self, Framing::Resp | Framing::Postgres | Framing::Http1)
    }

    pub(super) fn begin(self) -> Box<dyn Conversation> {
        match self {
            Framing::Resp => Box::new(resp::Resp::default()),
            Framing::Postgres => Box::new(postgres::Postgres::default()),
            Framing::MySql => Box::new(mysql::MySql::default()),
            Framing::Http1 => Box::new(http1::Http1::default()),
            Framing::Http2 => Box::new(http2::Http2::default()),
            Framing::ZooKeeper => Box::new(zookeeper::ZooKeeper::default()),
        }
    }
}

/// What goes up a connection: so many bytes, and the number of the request if they are one, or if by them the client takes
/// back what it asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Up {
    pub(super) length: usize,
    pub(super) request: Option<u64>,
    pub(super) takes_back: Option<u64>,
}

/// What comes down a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Down {
    /// No reply.
    Other,
    /// The reply to that request goes on after this.
    Part(u64),
    /// The reply to that request ends with this; or has begun, where its end can't be seen.
    End(u64),
}

/// Both directions of one connection. Each method is given all bytes of its direction that it has not taken yet, and
/// takes the next unit if that is complete.
pub(super) trait Conversation: Send {
    fn up(&mut self, bytes: &[u8]) -> Option<Up>;
    fn down(&mut self, bytes: &[u8]) -> Option<(usize, Down)>;
}

/// The first `N` bytes.
fn head<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

/// A length or number in the first four bytes.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..).and_then(head).map(u32::from_be_bytes)
}

/// As a length, which may be nonsense.
fn length(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Numbers replies in the order of their requests.
#[derive(Debug, Default)]
struct Turns {
    asked: u64,
    answered: u64,
}

impl Turns {
    fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// The request whose reply comes next.
    fn next(&self) -> Option<u64> {
        (self.answered < self.asked).then_some(self.answered + 1)
    }

    fn answer(&mut self) -> Down {
        self.next().map_or(Down::Other, |id| {
            self.answered = id;
            Down::End(id)
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Feeds bytes one at a time, and gives the units as they come.
    pub(super) fn ups(wire: &mut dyn Conversation, bytes: &[u8]) -> Vec<(usize, Option<u64>)> {
        let (mut buffer, mut units) = (Vec::new(), Vec::new());
        for byte in bytes {
            buffer.push(*byte);
            while let Some(unit) = wire.up(&buffer) {
                buffer.drain(..unit.length);
                units.push((unit.length, unit.request));
            }
        }
        assert!(buffer.is_empty(), "not taken: {buffer:?}");
        units
    }

    pub(super) fn downs(wire: &mut dyn Conversation, bytes: &[u8]) -> Vec<(usize, Down)> {
        let (mut buffer, mut units) = (Vec::new(), Vec::new());
        for byte in bytes {
            buffer.push(*byte);
            while let Some((length, what)) = wire.down(&buffer) {
                buffer.drain(..length);
                units.push((length, what));
            }
        }
        assert!(buffer.is_empty(), "not taken: {buffer:?}");
        units
    }
}
