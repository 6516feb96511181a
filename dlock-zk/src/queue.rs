//! [`Queue`]: a lock's nodes in order of arrival.

use crate::node::{Node, distance};
use dlock_core::{FencingToken, HolderInfo, LockInfo, LockKey, Mode, Standing, WaiterInfo};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};
use zookeeper_client::Stat;

/// A lock's nodes in order of arrival.
#[derive(Debug)]
pub(crate) struct Queue {
    nodes: Vec<Node>,
    modes: Vec<Mode>,
}

/// What our nodes hold, for people.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Content {
    label: String,
    mode: String,
    /// In milliseconds since 1970, by the client's clock.
    since: u64,
}

impl Content {
    pub(crate) fn write(label: &str, mode: Mode) -> Vec<u8> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let content = Self { label: label.to_owned(), mode: mode.to_string(), since };
        // Text and a number can't fail to be written.
        serde_json::to_vec(&content).unwrap_or_default()
    }
}

/// The nodes' contents, by name.
pub(crate) type Contents = HashMap<String, (Vec<u8>, Stat)>;

impl Queue {
    /// Puts the children of a lock's folder in order.
    pub(crate) fn new(children: &[String]) -> Self {
        let mut nodes: Vec<_> = children.iter().filter_map(|name| Node::read(name)).collect();
        // All live numbers lie within half of the circle, so any of them serves as a base.
        let base = nodes.first().map_or(0, |node| node.sequence);
        nodes.sort_by_cached_key(|node| (distance(node.sequence, base), node.name.clone()));
        let modes = nodes.iter().map(|node| node.mode).collect();
        Self { nodes, modes }
    }

    /// Two nodes of which the second came directly after the first: a folder counts what is put into it. `None` if something came
    /// between them.
    pub(crate) fn neighbours(first: &str, second: &str) -> Option<Self> {
        let follows = Node::read(first)?.sequence + 1 == Node::read(second)?.sequence;
        follows.then(|| Self::new(&[first.to_owned(), second.to_owned()]))
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    pub(crate) fn standing(&self, index: usize) -> Standing {
        Standing::of(&self.modes, index)
    }

    /// How one that came now would stand.
    pub(crate) fn standing_of_newcomer(&self, mode: Mode) -> Standing {
        let mut modes = self.modes.clone();
        modes.push(mode);
        Standing::of(&modes, self.modes.len())
    }

    /// The nodes before `index` while all of which are there, the node at `index` can't hold: the fewest that prove it.
    pub(crate) fn proof(&self, index: usize) -> Vec<&Node> {
        match (self.modes[index], self.standing(index)) {
            // The first stays longest.
            (Mode::Exclusive, Standing::Waits { .. }) => self.nodes[..1].iter().collect(),
            (Mode::Shared, Standing::Waits { .. }) => {
                self.nodes.iter().filter(|node| node.mode != Mode::Shared).take(1).collect()
            }
            (Mode::Permit { limit }, Standing::Waits { .. }) => {
                self.nodes.iter().take(usize::try_from(limit.get()).unwrap_or(usize::MAX)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The nodes that hold.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &Node> {
        // Holders come first: one that waits lets nobody behind it hold.
        self.nodes.iter().enumerate().take_while(|(index, _)| self.standing(*index) == Standing::Holds).map(|(_, n)| n)
    }

    /// The lock for people, without the node `except`.
    pub(crate) fn info(&self, key: &LockKey, contents: &Contents, except: Option<&str>) -> LockInfo {
        let mut info = LockInfo::free(key.clone());
        let holding = self.holders().count();
        let mut waiters = Vec::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| Some(node.name.as_str()) != except) {
            let content = contents.get(&node.name);
            let ours = content.and_then(|(data, stat)| Some((serde_json::from_slice::<Content>(data).ok()?, stat)));
            let since = content.and_then(|(_, stat)| {
                Some(SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(stat.ctime).ok()?))
            });
            if index < holding {
                let mut holder = HolderInfo::new(node.id.clone());
                holder.since = since;
                if let Some((ours, stat)) = ours {
                    holder.label = Some(ours.label);
                    holder.mode = Some(node.mode);
                    holder.token = Some(token(stat));
                }
                info.last_token = info.last_token.max(holder.token);
                info.holders.push(holder);
            } else {
                let mut waiter = WaiterInfo::new(node.id.clone());
                waiter.since = since;
                waiter.mode = Some(node.mode);
                waiter.label = ours.map(|(ours, _)| ours.label);
                waiters.push(waiter);
            }
        }
        info.waiters = Some(waiters);
        info
    }
}

/// The fencing token: the transaction that created the node.
pub(crate) fn token(stat: &Stat) -> FencingToken {
    FencingToken(stat.czxid.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_core::HolderId;

    fn name(mode: Mode, sequence: i32) -> String {
        format!("{}{}", Node::prefix(&HolderId::random(), mode), zero_padded(sequence))
    }

    fn zero_padded(sequence: i32) -> String {
        format!("{sequence:010}")
    }

    #[test]
    fn the_order_is_that_of_the_numbers_also_where_they_wrap() {
        let numbers = [i32::MIN + 1, i32::MAX, i32::MIN, i32::MAX - 1];
        let children: Vec<_> = numbers.iter().map(|number| name(Mode::Exclusive, *number)).collect();
        let queue = Queue::new(&children);
        let order: Vec<_> = queue.nodes().iter().map(|node| node.sequence).collect();
        let expected = [i32::MAX - 1, i32::MAX, i32::MIN, i32::MIN + 1].map(i64::from);
        assert_eq!(order, expected);
    }

    #[test]
    fn a_proof_names_the_fewest_that_keep_one_waiting() {
        let permit = Mode::Permit { limit: 2.try_into().unwrap() };
        let numbers = |modes: &[Mode], index| -> Vec<i64> {
            let children: Vec<_> = modes.iter().zip(0..).map(|(mode, number)| name(*mode, number)).collect();
            Queue::new(&children).proof(index).iter().map(|node| node.sequence).collect()
        };
        assert_eq!(numbers(&[Mode::Exclusive, Mode::Shared, Mode::Exclusive], 2), [0]);
        assert_eq!(numbers(&[Mode::Shared, Mode::Exclusive, Mode::Exclusive, Mode::Shared], 3), [1]);
        assert_eq!(numbers(&[permit, permit, permit, permit], 3), [0, 1]);
        assert_eq!(numbers(&[permit, permit], 1), [0_i64; 0]);
    }
}
