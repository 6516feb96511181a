//! Locks in DynamoDB: one item a lock, conditional writes only. The usual acquire, renewal and release are one write each.
//!
//! `dynamodb://table?region=eu-central-1`, with the parameters
//!
//! - `region`: else `AWS_REGION` or `AWS_DEFAULT_REGION`;
//! - `endpoint`: another server than the region's, as `http://127.0.0.1:8000`;
//! - `create=true`: makes the table if it is missing, with on-demand capacity, and waits until it is active (connecting then
//!   takes up to a minute); without it a missing table is an error that shows the command to run;
//! - `deletion_protection=true`: protects the table that is made;
//! - `poll`: how far apart a client looks at a lock that it waits for, `500ms` unless given, from 10 ms to 4 s. The shortest
//!   TTL is four times that, and at least a second;
//! - `clock_margin`: how far apart the clocks of the service's servers may be, `2s` unless given, and not less: a lease that
//!   nobody renews ends so much later for others.
//!
//! **Credentials** come from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`. With the cargo feature
//! `aws-config` they come from the standard chain: profile, SSO, container, instance. For a test server they may stand in the
//! URL: `dynamodb://KEY:SECRET@table`.
//!
//! **Rights** on the table: [`RIGHTS`]. Beyond them `dynamodb:Scan` for listing, `dynamodb:DeleteItem` for purging, and
//! `dynamodb:CreateTable` for `create=true`.
//!
//! # The table
//!
//! A string `lock_key` is the partition key, and there is no sort key ([`table_command`]). An item has the lock's record and
//! version; `holders`, `token` and `expires` are for people and read by nobody. Do not write to it, and do not turn on the
//! table's TTL: it ends no lease (it deletes up to days late), and it would remove tokens and versions that must not come
//! again. Items of locks that nobody uses stay, at some 150 bytes each. `docs/COSTS.md` says what waiting and holding cost.
//!
//! # What survives what
//!
//! - The service acknowledges a write when two of its three zones have it: holders, waiters and tokens outlive servers and zones.
//! - Leases end by the service's clock (the `Date` of its replies, whole seconds), never by a client's. What the servers' clocks
//!   differ by is covered up to `clock_margin`. So an unrenewed lease ends up to 5.2 s after its TTL for others, by the defaults.
//! - **Global tables:** with eventual consistency between regions two regions accept conflicting writes, and two hold. Use the
//!   table in one region alone, or a global table of strong consistency.
//! - A table restored from a backup has old records: tokens stay larger (the clock is their floor), but a lease that was granted
//!   since the backup is forgotten. Stop the holders before you restore.
//! - Do not put a cache (DAX) in front: reads must be strongly consistent.
//!
//! # Time and failure
//!
//! - Each request is sent once, and answered by its deadline whatever the socket does. A request that was throttled was not carried
//!   out; it is sent again as long as there is time, and is never taken for contention. What may have been carried out is
//!   repeated by dlock's own rules, by the holder's id.
//! - Waiters of one client tell each other of a grant, and share their reads. Other clients see it at their next look.
//!   [`LocksBuilder`](dlock_core::LocksBuilder) has what makes crowds cheaper.
//! - A machine whose wall clock is minutes off signs by the service's time.

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
