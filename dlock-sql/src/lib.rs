//! Locks in the database that is already there: PostgreSQL, and MySQL or MariaDB. One table, one row a lock, one statement a
//! request.
//!
//! `postgres://user:password@host:5432/database` or `mysql://user:password@host:3306/database`, with the parameters
//!
//! - `table`: the table's name, `dlock_locks` unless given: letters, digits, underscores, and a schema before a dot;
//! - `create=true`: makes the tables if they are missing, and brings older ones up to date, as `dlock init` does; without it a
//!   missing table is an error that shows the SQL to run;
//! - `pool`: the most connections, 5 unless given; on PostgreSQL one more listens;
//! - `tls`: `disable`, `prefer` (unless given), `require` or `verify-full`, and with the last `tls_ca`: a PEM file with the
//!   authority of the server's certificate, if it is not one that everybody knows;
//! - `clock_margin`: how far apart the clocks of the servers may be after a failover, `200ms` unless given: a lease
//!   ends so much later for others;
//! - `pooler=true`: the connections go through a transaction pooler (see below);
//! - `purge_after`: removes the rows of locks that nobody has used for so long, an hour or more; unless given they stay.
//!
//! A program that has a pool already hands it to [`PostgresStore::from_pool`] or [`MySqlStore::from_pool`].
//!
//! - The server's clock decides (`clock_timestamp()`, `UTC_TIMESTAMP(6)`), never a client's. No session state is kept between
//!   statements, but for one listening connection of PostgreSQL.
//! - PostgreSQL tells waiters (`LISTEN`/`NOTIFY`); where that does not get through (a pooler), and on MySQL, they look every
//!   50 ms.
//! - A user that may `SELECT`, `INSERT` and `UPDATE` the table is enough at run time, and `DELETE` for `purge_after`. To look at
//!   locks (`dlock ls`, `dlock show`) `SELECT` is enough.
//!
//! # The table
//!
//! `SELECT key, holders, expires, last_token FROM dlock_locks` reads well: the key, the labels of its holders, when the last of
//! them ends by the server's clock, and the newest fencing token. `record` is what counts, `version` names one state of it,
//! `changed` is the time of the last write. The comment of the table has the version of its schema.
//!
//! # Behind a pooler
//!
//! Behind PgBouncer or another pooler that gives each transaction another session, `LISTEN` can't work, and a prepared statement
//! may be another's. A client of PostgreSQL finds that out when it connects (it listens, tells itself a word, and waits for it a
//! second at the most), or is told by `pooler=true`. It then prepares nothing, writes its arguments into the text of each
//! statement, and looks every 50 ms. Nothing has to be set in the pooler.
//!
//! # Rows of locks that nobody uses
//!
//! They stay, with their last token, unless `purge_after` says otherwise. A purged key goes on with larger tokens, since they are
//! at least the server's clock in microseconds, and a row is purged only when that clock has passed its last token. A server
//! whose clock was wrong for longer than `purge_after`, and is then set back, could turn the token of a purged key back.

mod columns;
mod config;
mod error;
pub mod fence;
mod lent;
mod listen;
mod mysql;
mod options;
mod postgres;
mod purge;
mod schema;
mod statement;

pub use config::{MYSQL_CAPABILITIES, POSTGRES_CAPABILITIES, driver};
pub use mysql::{MySqlBackend, MySqlStore};
pub use options::SqlOptions;
pub use postgres::{PostgresBackend, PostgresStore};
pub use schema::{mysql_fences, mysql_schema, postgres_fences, postgres_schema};

#[cfg(doctest)]
#[doc = include_str!("../../docs/FENCING.md")]
struct Fencing;
