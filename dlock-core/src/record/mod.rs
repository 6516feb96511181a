//! The lock record: for stores that can compare and swap but have no lock recipe.
//!
//! A lock is one small document: the last tokens, the holders and a queue of waiters. [`Record`] moves by the pure
//! transitions in [`machine`]; a [`RecordStore`] keeps it; [`RecordBackend`] adds reading, swapping, waiting and the
//! store's clock, and is a [`LockBackend`](crate::LockBackend).

mod backend;
mod clock;
mod document;
mod engine;
pub mod machine;
mod store;
mod turns;
mod wakes;

pub use backend::RecordBackend;
pub use clock::{StoreClock, StoreNow};
pub use document::{Entry, Holder, Record, Waiter};
pub use store::{Change, RecordStore, Snapshot, StoreReading, StoreTime, Swap};
pub use wakes::{Wakes, Watch};
