//! What `dlock` and the warden say to each other: nine bytes a message.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The length of a message.
pub(super) const LENGTH: usize = 9;

/// To the warden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The command must be gone by this moment (in nanoseconds since boot).
    Deadline(u64),
    /// Pass this signal on.
    Signal(u64),
    /// End the command now: SIGTERM, and SIGKILL after the grace.
    End,
}

/// From the warden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The command runs, in a process group of this id.
    Started(u64),
    /// The command ended with this status, and nobody of its group is left.
    Ended(u64),
    /// The command was ended because the lock was about to be lost, and nobody of its group is left.
    Cut,
}

impl Order {
    pub(super) fn encode(self) -> [u8; LENGTH] {
        match self {
            Order::Deadline(at) => encode(b'D', at),
            Order::Signal(number) => encode(b'S', number),
            Order::End => encode(b'E', 0),
        }
    }

    /// The next order; `None` when the other side is gone.
    pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        match read(from).await? {
            (b'D', at) => Some(Order::Deadline(at)),
            (b'S', number) => Some(Order::Signal(number)),
            _ => Some(Order::End),
        }
    }
}

impl Report {
    pub(super) async fn write(self, to: &mut (impl AsyncWrite + Unpin)) {
        let bytes = match self {
            Report::Started(group) => encode(b'P', group),
            Report::Ended(status) => encode(b'X', status),
            Report::Cut => encode(b'C', 0),
        };
        // Where nobody listens any more, nobody needs to know.
        let _ = to.write_all(&bytes).await;
    }

    pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        match read(from).await? {
            (b'P', group) => Some(Report::Started(group)),
            (b'C', _) => Some(Report::Cut),
            (_, status) => Some(Report::Ended(status)),
        }
    }
}

fn encode(kind: u8, value: u64) -> [u8; LENGTH] {
    let mut bytes = [kind; LENGTH];
    bytes[1..].copy_from_slice(&value.to_le_bytes());
    bytes
}

async fn read(from: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u64)> {
    let mut bytes = [0; LENGTH];
    from.read_exact(&mut bytes).await.ok()?;
    let (kind, value) = bytes.split_first()?;
    Some((*kind, u64::from_le_bytes(value.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read() {
        let (mut here, mut there) = tokio::io::duplex(64);
        for order in [Order::Deadline(u64::MAX), Order::Signal(15), Order::End] {
            here.write_all(&order.encode()).await.unwrap();
            assert_eq!(Order::read(&mut there).await, Some(order));
        }
        Report::Started(42).write(&mut there).await;
        Report::Ended(143).write(&mut there).await;
        assert_eq!(Report::read(&mut here).await, Some(Report::Started(42)));
        assert_eq!(Report::read(&mut here).await, Some(Report::Ended(143)));
        Report::Cut.write(&mut there).await;
        assert_eq!(Report::read(&mut here).await, Some(Report::Cut));
        drop(there);
        assert_eq!(Report::read(&mut here).await, None);
    }
}
