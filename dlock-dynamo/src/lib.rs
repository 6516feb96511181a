//! Locks in DynamoDB: one item a lock, conditional writes only.

mod client;
mod config;
mod error;
mod exchange;
pub mod fence;
mod item;
mod reads;
mod store;
mod table;

pub use config::{DYNAMO_CAPABILITIES, driver};
pub use store::{DynamoBackend, DynamoStore};
pub use table::{RIGHTS, table_command};
