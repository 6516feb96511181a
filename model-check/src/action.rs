//! [`Action`]: what may happen next.

use crate::Deed;

/// What may happen next. Messages are named by their place among those under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client asks the store for something.
    Begin(usize, Deed),
    /// A client that waits, or whose request is in doubt, does not want the lock any more.
    GiveUp(usize),
    /// A request arrives at the store, or a reply or push at its client.
    Deliver(usize),
    /// The same, and a copy of the request stays under way.
    DeliverTwice(usize),
    /// A client gives up waiting for a reply; the request may still arrive.
    Lose(usize),
    /// A client vanishes; one that knows nothing takes its place.
    Crash(usize),
    /// The store's clock jumps by milliseconds.
    Jump(i64),
    /// The store removes the idle record.
    Purge,
    /// A second passes. A client that does nothing meanwhile was stopped.
    Tick,
}
