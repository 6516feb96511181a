//! From the database's errors to ours.

use dlock_core::{Effect, Error, ErrorKind};

/// What an error of the client is to us, and whether the statement may have been carried out.
pub(crate) fn classify(error: &sqlx::Error) -> (ErrorKind, Effect) {
    match error {
        sqlx::Error::Database(error) => match error.code().as_deref() {
            Some("28P01" | "28000" | "42501" | "1045" | "1044" | "1142" | "3D000" | "1049") => {
                (ErrorKind::Unauthorized, Effect::NotApplied)
            }
            // No such table, in PostgreSQL and MySQL.
            Some("42P01" | "42S02") => (ErrorKind::InvalidConfig, Effect::NotApplied),
            // Serialization, deadlock, lock timeout, too many connections, shutting down, starting up, read only.
            Some(
                "40001" | "40P01" | "55P03" | "53300" | "57P01" | "57P02" | "57P03" | "25006" | "1205" | "1213"
                | "1040" | "1053" | "1290",
            ) => (ErrorKind::Unavailable, Effect::NotApplied),
            _ => (ErrorKind::Unexpected, Effect::NotApplied),
        },
        sqlx::Error::PoolTimedOut => (ErrorKind::Unavailable, Effect::NotApplied),
        sqlx::Error::PoolClosed => (ErrorKind::Closed, Effect::NotApplied),
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            (ErrorKind::Unavailable, Effect::NotApplied)
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            (ErrorKind::Unavailable, Effect::Unknown)
        }
        sqlx::Error::Configuration(_) => (ErrorKind::InvalidConfig, Effect::NotApplied),
        _ => (ErrorKind::Unexpected, Effect::Unknown),
    }
}

/// `create` is the SQL that makes the table.
pub(crate) fn from_sql(error: sqlx::Error, create: &str) -> Error {
    let (kind, effect) = classify(&error);
    let message = match kind {
        ErrorKind::Unauthorized => {
            "the database refused the credentials, or this user lacks a right; it needs to connect, and to select, insert and \
             update the table of locks"
                .to_owned()
        }
        ErrorKind::InvalidConfig if !matches!(error, sqlx::Error::Configuration(_)) => {
            format!("the table of locks is missing; add create=true to the URL, or run: {create}")
        }
        ErrorKind::Unavailable => "the database did not answer, or can't now".to_owned(),
        _ => "the database answered with an error".to_owned(),
    };
    Error::new(kind, message).with_effect(effect).with_source(error)
}

/// The error of a statement that was not answered in time.
pub(crate) fn no_answer() -> Error {
    Error::new(ErrorKind::Unavailable, "the database gave no answer in time").with_effect(Effect::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_kind_and_effect() {
        let io = |kind: std::io::ErrorKind| sqlx::Error::Io(kind.into());
        for (error, kind, effect) in [
            (sqlx::Error::PoolTimedOut, ErrorKind::Unavailable, Effect::NotApplied),
            (sqlx::Error::PoolClosed, ErrorKind::Closed, Effect::NotApplied),
            (io(std::io::ErrorKind::ConnectionRefused), ErrorKind::Unavailable, Effect::NotApplied),
            (io(std::io::ErrorKind::BrokenPipe), ErrorKind::Unavailable, Effect::Unknown),
            (sqlx::Error::Protocol("cut".into()), ErrorKind::Unavailable, Effect::Unknown),
        ] {
            assert_eq!(classify(&error), (kind, effect), "{error}");
        }
    }
}
