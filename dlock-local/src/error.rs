//! From SQLite's errors to ours.

use dlock_core::{Effect, Error, ErrorKind};
use rusqlite::ErrorCode;

/// What an error of SQLite is to us.
pub(crate) fn classify(code: Option<ErrorCode>) -> (ErrorKind, &'static str) {
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Unavailable, "another process kept the lock file busy for too long")
        }
        Some(ErrorCode::DiskFull) => (ErrorKind::Unavailable, "the disk is full; make room"),
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::Unavailable, "the disk failed"),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            (ErrorKind::Corrupt, "the file is no lock file of ours; it was left as it is, so choose another path")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => (
            ErrorKind::Unauthorized,
            "the lock file can't be written; allow this user to write the file and its folder",
        ),
        Some(ErrorCode::CannotOpen) => (
            ErrorKind::Unauthorized,
            "the lock file can't be opened or made; allow this user to write the file and its folder",
        ),
        _ => (ErrorKind::Unexpected, "SQLite failed"),
    }
}

pub(crate) fn from_sqlite(error: rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let (kind, message) = classify(code);
    // A transaction is carried out or not; only a failing disk leaves that open.
    let effect = if code == Some(ErrorCode::SystemIoFailure) { Effect::Unknown } else { Effect::NotApplied };
    Error::new(kind, message).with_effect(effect).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_kind() {
        for (code, kind) in [
            (ErrorCode::DatabaseBusy, ErrorKind::Unavailable),
            (ErrorCode::DiskFull, ErrorKind::Unavailable),
            (ErrorCode::NotADatabase, ErrorKind::Corrupt),
            (ErrorCode::ReadOnly, ErrorKind::Unauthorized),
            (ErrorCode::CannotOpen, ErrorKind::Unauthorized),
            (ErrorCode::TypeMismatch, ErrorKind::Unexpected),
        ] {
            assert_eq!(classify(Some(code)).0, kind);
        }
    }
}
