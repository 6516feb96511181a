//! [`Standing`]: who holds a lock that its store keeps as a queue of entries.

use crate::Mode;

/// How one entry of a queue stands, in a store that keeps a lock as entries in order of arrival (etcd, ZooKeeper).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds the lock.
    Holds,
    /// It waits. When the entry at `behind` goes, it must look again. A permit waiter also must look when the first
    /// of all entries before it goes, whichever that is (rule Q2).
    Waits {
        /// The index of the nearest entry that it can't hold together with.
        behind: usize,
    },
    /// An earlier entry uses the lock in a way that does not go with this one.
    Disagrees(Mode),
}

impl Standing {
    /// How the entry at `index` stands among `queue`, in order of arrival. A foreign client's entry counts as exclusive.
    ///
    /// # Panics
    /// When `index` is not in the queue.
    pub fn of(queue: &[Mode], index: usize) -> Self {
        let (mode, before) = (queue[index], &queue[..index]);
        if let Some(other) = before.iter().find(|other| !mode.agrees_with(**other)) {
            return Self::Disagrees(*other);
        }
        let behind = match mode {
            Mode::Exclusive => index.checked_sub(1),
            Mode::Shared => before.iter().rposition(|other| *other != Mode::Shared),
            Mode::Permit { limit } => {
                let room = usize::try_from(limit.get()).unwrap_or(usize::MAX);
                (index >= room).then(|| index - 1)
            }
        };
        behind.map_or(Self::Holds, |behind| Self::Waits { behind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mode::{Exclusive, Shared};
    use Standing::{Disagrees, Holds, Waits};

    fn all(queue: &[Mode]) -> Vec<Standing> {
        (0..queue.len()).map(|index| Standing::of(queue, index)).collect()
    }

    #[test]
    fn readers_hold_together_and_writers_alone() {
        let queue = [Shared, Shared, Exclusive, Shared, Shared, Exclusive];
        let waits = |behind| Waits { behind };
        assert_eq!(all(&queue), [Holds, Holds, waits(1), waits(2), waits(2), waits(4)]);
    }

    #[test]
    fn permits_hold_up_to_their_limit_and_mix_with_nothing() {
        let [two, three] = [2, 3].map(|limit: u32| Mode::Permit { limit: limit.try_into().unwrap() });
        assert_eq!(all(&[two, two, two, two]), [Holds, Holds, Waits { behind: 1 }, Waits { behind: 2 }]);
        assert_eq!(all(&[two, three, Exclusive]), [Holds, Disagrees(two), Disagrees(two)]);
        assert_eq!(all(&[Shared, two]), [Holds, Disagrees(Shared)]);
    }
}
