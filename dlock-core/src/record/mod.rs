//! The lock record: for stores that can compare and swap but have no lock recipe.
//!
//! A lock is one small document: the last tokens, the holders and a queue of waiters. [`Record`] moves by the pure
//! transitions in [`machine`], and what a client does with one that it found stands in [`decide`] and [`Judge`]; a
//! [`RecordStore`] keeps it; [`RecordBackend`] adds reading, swapping, waiting and the store's clock, and is a
//! [`LockBackend`](crate::LockBackend).

mod backend;
mod clock;
mod company;
pub mod decide;
mod document;
mod engine;
mod judge;
pub mod machine;
mod store;
mod wakes;

pub use backend::RecordBackend;
pub use clock::{StoreClock, StoreNow};
pub use document::{Entry, Holder, Record, Waiter};
pub use judge::Judge;
pub use store::{Change, RecordStore, Snapshot, StoreReading, StoreTime, Swap};
pub use wakes::Wakes;
