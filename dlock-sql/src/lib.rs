//! Locks in the database that is already there: PostgreSQL, and MySQL or MariaDB. One table, one row a lock, one statement a
//! request.
//!
//! `postgres://user:password@host:5432/database` or `mysql://user:password@host:3306/database`, with the parameters
//!
//! - `table`: the table's name, `dlock_locks` unless given: letters, digits, underscores, and a schema before a dot;
//! - `create=true`: makes the table if it is missing; without it a missing table is an error that shows the SQL to run;
//! - `pool`: the most connections, 5 unless given;
//! - `tls`: `disable`, `prefer` (unless given), `require` or `verify-full`;
//! - `clock_margin`: how far apart the clocks of the servers may be after a failover, `200ms` unless given: a lease
//!   ends so much later for others.
//!
//! - The server's clock decides (`clock_timestamp()`, `UTC_TIMESTAMP(6)`), never a client's. No session state is kept between
//!   statements, but for one listening connection of PostgreSQL.
//! - PostgreSQL tells waiters (`LISTEN`/`NOTIFY`); where that does not get through (a pooler), and on MySQL, they look every
//!   50 ms.
//! - Rows of locks that nobody uses stay: their token and version must not come again.

mod config;
mod error;
mod lent;
mod mysql;
mod postgres;

pub use config::{MYSQL_CAPABILITIES, POSTGRES_CAPABILITIES, driver, mysql_table, postgres_table};
pub use mysql::{MySqlBackend, MySqlStore};
pub use postgres::{PostgresBackend, PostgresStore};
