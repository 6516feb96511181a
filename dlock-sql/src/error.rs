//! From the database's errors to ours.

use dlock_core::{Effect, Error, ErrorKind};
use sqlx::mysql::MySqlDatabaseError;

/// What went wrong, by what there is to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    Login,
    Database,
    Right,
    Table,
    Column,
    Busy,
    Tls,
    Closed,
    Setup,
    Other,
}

impl Problem {
    fn kind(self) -> ErrorKind {
        match self {
            Self::Login | Self::Right => ErrorKind::Unauthorized,
            Self::Database | Self::Table | Self::Column | Self::Setup => ErrorKind::InvalidConfig,
            Self::Busy | Self::Tls => ErrorKind::Unavailable,
            Self::Closed => ErrorKind::Closed,
            Self::Other => ErrorKind::Unexpected,
        }
    }
}

/// What an error of the client is to us, and whether the statement may have been carried out.
pub(crate) fn classify(error: &sqlx::Error) -> (Problem, Effect) {
    use Effect::{NotApplied, Unknown};
    match error {
        sqlx::Error::Database(error) => match error.try_downcast_ref::<MySqlDatabaseError>() {
            Some(error) => by_number(error.number()),
            None => by_state(error.code().as_deref().unwrap_or_default()),
        },
        sqlx::Error::PoolTimedOut => (Problem::Busy, NotApplied),
        sqlx::Error::PoolClosed => (Problem::Closed, NotApplied),
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => (Problem::Busy, NotApplied),
        // Before the first statement of a connection.
        sqlx::Error::Tls(_) => (Problem::Tls, NotApplied),
        // A certificate that was not accepted comes as this; or something that broke the stream later on.
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => (Problem::Tls, Unknown),
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => (Problem::Busy, Unknown),
        sqlx::Error::Configuration(_) => (Problem::Setup, NotApplied),
        _ => (Problem::Other, Unknown),
    }
}

/// PostgreSQL, by SQLSTATE.
fn by_state(state: &str) -> (Problem, Effect) {
    use Effect::{NotApplied, Unknown};
    match state {
        "28P01" | "28000" => (Problem::Login, NotApplied),
        "3D000" | "3F000" => (Problem::Database, NotApplied),
        "42501" => (Problem::Right, NotApplied),
        "42P01" => (Problem::Table, NotApplied),
        "42703" => (Problem::Column, NotApplied),
        // Serialization, deadlock, lock timeout, too many connections, starting up, read only.
        "40001" | "40P01" | "55P03" | "53300" | "57P03" | "25006" => (Problem::Busy, NotApplied),
        // Shutting down, cut short; and what a pooler says when its server left: the statement may have been carried out.
        "57P01" | "57P02" | "57014" | "40003" => (Problem::Busy, Unknown),
        state if state.starts_with("08") || state.starts_with("58") => (Problem::Busy, Unknown),
        _ => (Problem::Other, Unknown),
    }
}

/// MySQL and MariaDB, by error number: their SQLSTATEs tell less.
fn by_number(number: u16) -> (Problem, Effect) {
    use Effect::{NotApplied, Unknown};
    match number {
        1045 | 1698 | 1524 | 4151 => (Problem::Login, NotApplied),
        1044 | 1142 | 1143 | 1227 | 1370 => (Problem::Right, NotApplied),
        1049 => (Problem::Database, NotApplied),
        1146 => (Problem::Table, NotApplied),
        1054 => (Problem::Column, NotApplied),
        // Lock timeout, deadlock, too many connections, read only.
        1205 | 1213 | 1040 | 1203 | 1290 | 1792 | 1836 => (Problem::Busy, NotApplied),
        // Shutting down, interrupted, gone.
        1053 | 1317 | 1927 | 2006 | 2013 | 3024 | 1152..=1161 => (Problem::Busy, Unknown),
        _ => (Problem::Other, Unknown),
    }
}

/// What the messages need to know: the table, and the SQL that makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Advice<'a> {
    pub(crate) table: &'a str,
    pub(crate) create: &'a str,
    /// Who asks.
    pub(crate) asker: Asker,
}

/// Who ran into an error: there is something else to do about it for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A backend, which has a URL.
    Locks,
    /// What makes the tables.
    Init,
    /// A fence, in a connection of the caller's.
    Fence,
}

impl Advice<'_> {
    pub(crate) fn error(self, error: sqlx::Error) -> Error {
        let (problem, effect) = classify(&error);
        let table = self.table;
        let message = match problem {
            Problem::Login => {
                "the database refused the credentials, the user or its password; check both in the URL".into()
            }
            Problem::Database => "there is no such database or schema; make it, or name another in the URL".into(),
            Problem::Right if self.asker == Asker::Init => {
                format!("this user may not make or change the table {table}; let one who may run: {}", self.create)
            }
            Problem::Right => format!(
                "this user may not do that; let one who may run: GRANT SELECT, INSERT, UPDATE ON {table} TO the_user (and DELETE \
                 for purge_after)"
            ),
            Problem::Table if self.asker == Asker::Fence => {
                format!("the table of fences {table} is missing; run in this database: {}", self.create)
            }
            Problem::Table => format!(
                "the table {table} is missing; run `dlock init` with this URL, add create=true to it, or run: {}",
                self.create
            ),
            Problem::Column => format!(
                "the table {table} has an older schema; run `dlock init` with this URL, or add create=true to it"
            ),
            Problem::Tls => {
                "no TLS connection could be made: look at the server's certificate, and at tls and tls_ca in the \
                             URL"
                .into()
            }
            Problem::Setup => "the connection is not set up well; look at the URL".into(),
            Problem::Busy => "the database did not answer, or can't now".into(),
            Problem::Closed => "the connection pool is closed".into(),
            Problem::Other => "the database answered with an error".into(),
        };
        Error::new(problem.kind(), message).with_effect(effect).with_source(error)
    }
}

/// The error of a statement that was not answered in time.
pub(crate) fn no_answer() -> Error {
    Error::new(ErrorKind::Unavailable, "the database gave no answer in time").with_effect(Effect::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_problem_and_effect() {
        let io = |kind: std::io::ErrorKind| sqlx::Error::Io(kind.into());
        for (error, problem, effect) in [
            (sqlx::Error::PoolTimedOut, Problem::Busy, Effect::NotApplied),
            (sqlx::Error::PoolClosed, Problem::Closed, Effect::NotApplied),
            (io(std::io::ErrorKind::ConnectionRefused), Problem::Busy, Effect::NotApplied),
            (io(std::io::ErrorKind::BrokenPipe), Problem::Busy, Effect::Unknown),
            (io(std::io::ErrorKind::InvalidData), Problem::Tls, Effect::Unknown),
            (sqlx::Error::Protocol("cut".into()), Problem::Busy, Effect::Unknown),
            (sqlx::Error::Tls("unknown issuer".into()), Problem::Tls, Effect::NotApplied),
        ] {
            assert_eq!(classify(&error), (problem, effect), "{error}");
        }
        for (state, answer) in [
            ("28P01", (Problem::Login, Effect::NotApplied)),
            ("42501", (Problem::Right, Effect::NotApplied)),
            ("08P01", (Problem::Busy, Effect::Unknown)),
            ("57P01", (Problem::Busy, Effect::Unknown)),
            ("40001", (Problem::Busy, Effect::NotApplied)),
            ("XX000", (Problem::Other, Effect::Unknown)),
        ] {
            assert_eq!(by_state(state), answer, "{state}");
        }
        for (number, answer) in [
            (1045, (Problem::Login, Effect::NotApplied)),
            (1142, (Problem::Right, Effect::NotApplied)),
            (1213, (Problem::Busy, Effect::NotApplied)),
            (1053, (Problem::Busy, Effect::Unknown)),
        ] {
            assert_eq!(by_number(number), answer, "{number}");
        }
    }
}
