//! The tables, and the version of their schema.
//!
//! The version stands in the comment of the table of locks: whoever may use the table can read it, no second table is asked
//! at run time, and it is written by the very statement (or transaction) that changes the table.

use dlock_core::{Error, ErrorKind, Result};

/// The version that this crate makes and needs. 1 had no readable expiry and last token, no fences and no comment.
pub(crate) const VERSION: u32 = 2;

/// What a table's comment says.
fn comment() -> String {
    format!("dlock schema {VERSION}")
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Missing,
    /// A table of this version.
    Version(u32),
}

impl Found {
    /// By the table's comment. One that says nothing of us is of the first version, or somebody wrote another.
    pub(crate) fn by_comment(comment: Option<&str>) -> Self {
        let version = comment.and_then(|comment| comment.trim().strip_prefix("dlock schema "));
        Self::Version(version.and_then(|version| version.parse().ok()).unwrap_or(1))
    }

    pub(crate) fn is_current(self) -> bool {
        self == Self::Version(VERSION)
    }

    /// Whether there is something to make. A newer one is left alone.
    pub(crate) fn is_to_be_made(self) -> bool {
        match self {
            Self::Missing => true,
            Self::Version(version) => version < VERSION,
        }
    }

    /// What was done, for people, where this was found before.
    ///
    /// # Errors
    /// When nothing could be done with it: it is of a newer version.
    pub(crate) fn made(self, table: &str) -> Result<String> {
        match self {
            Self::Missing => Ok(format!("made the table {table} and the fences beside it (schema {VERSION})")),
            Self::Version(VERSION) => Ok(format!("the table {table} is up to date (schema {VERSION})")),
            Self::Version(old) if old < VERSION => {
                Ok(format!("brought the table {table} from schema {old} to {VERSION}"))
            }
            newer @ Self::Version(_) => newer.check(table, "").map(|()| String::new()),
        }
    }

    /// # Errors
    /// When the table is not of the present version.
    pub(crate) fn check(self, table: &str, create: &str) -> Result<()> {
        let (kind, message) = match self {
            Self::Version(VERSION) => return Ok(()),
            Self::Missing => (
                ErrorKind::InvalidConfig,
                format!(
                    "the table {table} is missing; run `dlock init` with this URL, add create=true to it, or run: {create}"
                ),
            ),
            Self::Version(old) if old < VERSION => (
                ErrorKind::InvalidConfig,
                format!(
                    "the table {table} has schema {old}, and this version needs {VERSION}; run `dlock init` with this URL, \
                     or add create=true to it"
                ),
            ),
            Self::Version(new) => (
                ErrorKind::Unsupported,
                format!(
                    "the table {table} has schema {new}, and this version knows up to {VERSION}; update dlock here"
                ),
            ),
        };
        Err(Error::new(kind, message))
    }
}

/// The table of fences that stands beside a table of locks: in the same schema.
pub(crate) fn fences_beside(table: &str) -> String {
    match table.rsplit_once('.') {
        Some((schema, _)) => format!("{schema}.dlock_fences"),
        None => "dlock_fences".to_owned(),
    }
}

/// The SQL that makes the tables in PostgreSQL, and brings older ones up to date: done twice it changes nothing.
///
/// Half of each page is left free, and few dead rows are let be: a lock's row is written again and again, and stays on its page
/// so.
pub fn postgres_schema(table: &str) -> String {
    let comment = comment();
    let fences = postgres_fences(&fences_beside(table));
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (key text COLLATE \"C\" PRIMARY KEY, version bigint NOT NULL, record text NOT NULL, \
         holders text NOT NULL, expires timestamptz, last_token bigint NOT NULL DEFAULT 0, changed timestamptz NOT NULL) \
         WITH (fillfactor = 50); \
         ALTER TABLE {table} ADD COLUMN IF NOT EXISTS expires timestamptz, \
         ADD COLUMN IF NOT EXISTS last_token bigint NOT NULL DEFAULT 0; \
         UPDATE {table} SET last_token = substring(record FROM '\"last_token\":([0-9]{{1,18}})')::bigint \
         WHERE last_token = 0 AND record ~ '\"last_token\":[0-9]{{1,18}}'; \
         {fences}; COMMENT ON TABLE {table} IS '{comment}'"
    )
}

/// The SQL that makes a table of fences in PostgreSQL: all that a database needs whose locks are kept elsewhere.
pub fn postgres_fences(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (resource text COLLATE \"C\" PRIMARY KEY, token bigint NOT NULL, \
         changed timestamptz NOT NULL)"
    )
}

/// The columns that version 2 added in MySQL.
pub(crate) const MYSQL_ADDED: [(&str, &str); 2] =
    [("expires", "datetime(6) NULL"), ("last_token", "bigint NOT NULL DEFAULT 0")];

/// The SQL that makes the tables in MySQL or MariaDB. Older ones are brought up to date by `dlock init` or `create=true`.
pub fn mysql_schema(table: &str) -> String {
    let comment = comment();
    let fences = mysql_fences(&fences_beside(table));
    let [(expires, expires_type), (token, token_type)] = MYSQL_ADDED;
    format!(
        "{fences}; CREATE TABLE IF NOT EXISTS {table} (`key` varbinary(255) PRIMARY KEY, version bigint NOT NULL, record mediumtext \
         CHARACTER SET utf8mb4 NOT NULL, holders text CHARACTER SET utf8mb4 NOT NULL, {expires} {expires_type}, \
         {token} {token_type}, changed datetime(6) NOT NULL) ENGINE = InnoDB COMMENT = '{comment}'"
    )
}

/// The SQL that makes a table of fences in MySQL or MariaDB: all that a database needs whose locks are kept elsewhere.
pub fn mysql_fences(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (resource varbinary(255) PRIMARY KEY, token bigint NOT NULL, \
         changed datetime(6) NOT NULL) ENGINE = InnoDB"
    )
}

/// The statement that brings an older table in MySQL up to date, columns and version at once; `has` are the columns that
/// are there.
pub(crate) fn mysql_migration(table: &str, has: &[String]) -> String {
    let missing = MYSQL_ADDED.iter().filter(|(name, _)| !has.iter().any(|column| column.eq_ignore_ascii_case(name)));
    let added: String = missing.map(|(name, kind)| format!("ADD COLUMN {name} {kind}, ")).collect();
    format!("ALTER TABLE {table} {added}COMMENT = '{}'", comment())
}

/// Takes the last tokens of older rows over, where a record is as we write it.
pub(crate) fn mysql_backfill(table: &str) -> String {
    format!(
        "UPDATE {table} SET last_token = CAST(SUBSTRING_INDEX(SUBSTRING_INDEX(record, '\"last_token\":', -1), ',', 1) AS UNSIGNED) \
         WHERE last_token = 0 AND record LIKE '{{\"v\":1,\"last_token\":%,\"last_exclusive\":%'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comment_tells_the_version() {
        assert!(Found::by_comment(Some(&comment())).is_current());
        assert_eq!(Found::by_comment(None), Found::Version(1));
        assert_eq!(Found::by_comment(Some("locks of the shop")), Found::Version(1));
        assert_eq!(
            Found::by_comment(Some("dlock schema 7")).check("t", "").unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        assert!(Found::Version(1).check("t", "").unwrap_err().to_string().contains("dlock init"));
    }

    #[test]
    fn fences_stand_in_the_schema_of_the_locks() {
        assert_eq!(fences_beside("app.locks"), "app.dlock_fences");
        assert_eq!(fences_beside("locks"), "dlock_fences");
    }
}
