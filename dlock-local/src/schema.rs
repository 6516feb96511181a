//! The SQLite file: opened, checked, and made if it is missing.

use crate::error::from_sqlite;
use dlock_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::path::Path;
use std::time::Duration;

/// "dlck": tells our files from others.
const APPLICATION_ID: i64 = 0x646c_636b;
/// The format that this version reads and writes.
const FORMAT: i64 = 1;

/// How long opening waits for another process that makes the file.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the file, and makes it if it is missing or empty.
pub(crate) fn open(path: &Path, full_sync: bool) -> Result<Connection> {
    if path.is_dir() {
        let message = format!("{} is a folder; give the path of a file in it", path.display());
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    // SQLite would make it for this user alone, whatever the umask. What fails here it tells itself. A file that is there is not
    // opened: closing it would drop the locks that SQLite has on it for this process.
    let _ = std::fs::File::options().create_new(true).append(true).open(path);
    // Without the flag for URIs: a path is a path.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(from_sqlite)?;
    prepare(&mut connection, path, full_sync)?;
    Ok(connection)
}

/// Lets each change of this connection wait for the disk from now on.
pub(crate) fn sync_fully(connection: &mut Connection) {
    if let Err(error) = connection.pragma_update(None, "synchronous", "full") {
        tracing::warn!(%error, "changes of the lock file do not wait for the disk");
    }
}

fn prepare(connection: &mut Connection, path: &Path, full_sync: bool) -> Result<()> {
    connection.busy_timeout(PATIENCE).map_err(from_sqlite)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(from_sqlite)?;
    let number =
        |pragma: &str| transaction.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(from_sqlite);
    let (application, format) = (number("application_id")?, number("user_version")?);
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(from_sqlite)?;
    if (application, format, tables) == (0, 0, 0) {
        transaction
            .execute_batch(&format!(
                "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};
                 CREATE TABLE locks (key TEXT PRIMARY KEY, version INTEGER NOT NULL, record TEXT NOT NULL)
                 STRICT, WITHOUT ROWID;
                 CREATE TABLE removed (last_token INTEGER NOT NULL) STRICT;
                 INSERT INTO removed VALUES (0);"
            ))
            .map_err(from_sqlite)?;
    } else if application != APPLICATION_ID {
        let message = format!(
            "{} is a SQLite file of another program; it was left as it is, so choose another path",
            path.display()
        );
        return Err(Error::new(ErrorKind::Corrupt, message));
    } else if format > FORMAT {
        let message =
            format!("{} has format {format}, and this version reads up to {FORMAT}; update dlock here", path.display());
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    transaction.commit().map_err(from_sqlite)?;
    // Readers beside one writer. Only now, so that the marks above stand in the file itself.
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(())).map_err(from_sqlite)?;
    let synchronous = if full_sync { "full" } else { "normal" };
    connection.pragma_update(None, "synchronous", synchronous).map_err(from_sqlite)
}
