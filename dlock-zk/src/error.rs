//! From the client's errors to ours.

use dlock_core::{Effect, Error, ErrorKind};
use zookeeper_client::Error as Zk;

/// What an error of the client is to us, and whether the request may have been carried out.
pub(crate) fn classify(error: &Zk) -> (ErrorKind, Effect) {
    match error {
        Zk::NoAuth | Zk::AuthFailed | Zk::InvalidAcl => (ErrorKind::Unauthorized, Effect::NotApplied),
        Zk::NoHosts | Zk::SessionMoved | Zk::NotReadOnly | Zk::Throttled => {
            (ErrorKind::Unavailable, Effect::NotApplied)
        }
        // What fails with these was perhaps sent before. A lost connection is also told as an I/O error.
        Zk::ConnectionLoss | Zk::Timeout | Zk::SessionExpired | Zk::ClientClosed | Zk::Custom(_) => {
            (ErrorKind::Unavailable, Effect::Unknown)
        }
        Zk::NoChildrenForEphemerals => (ErrorKind::Corrupt, Effect::NotApplied),
        Zk::Unimplemented => (ErrorKind::Unsupported, Effect::NotApplied),
        Zk::BadArguments(_) => (ErrorKind::InvalidConfig, Effect::NotApplied),
        Zk::NoNode
        | Zk::NodeExists
        | Zk::BadVersion
        | Zk::NotEmpty
        | Zk::NoWatcher
        | Zk::QuotaExceeded
        | Zk::MarshallingError => (ErrorKind::Unexpected, Effect::NotApplied),
        _ => (ErrorKind::Unexpected, Effect::Unknown),
    }
}

/// Whether nothing can be asked on this session any more.
pub(crate) fn ends_session(error: &Zk) -> bool {
    matches!(error, Zk::SessionExpired | Zk::AuthFailed | Zk::ClientClosed)
}

pub(crate) fn from_zk(error: Zk) -> Error {
    let (kind, effect) = classify(&error);
    let message = match (kind, &error) {
        (ErrorKind::Unauthorized, _) => {
            "the server refuses it; check the user and password in the URL, and the ACL of the nodes"
        }
        (ErrorKind::Unavailable, Zk::NoHosts) => "no server accepts a connection; check the hosts in the URL",
        (ErrorKind::Unavailable, Zk::Timeout) => "the server gave no answer in time",
        (ErrorKind::Unavailable, Zk::SessionExpired | Zk::ClientClosed) => "the session with the server has ended",
        (ErrorKind::Unavailable, _) => "the connection to the server broke",
        (ErrorKind::Corrupt, _) => IN_ITS_PLACE,
        (ErrorKind::Unsupported, _) => "the server is too old; this backend needs ZooKeeper 3.6 or newer",
        _ => "the server refused the request",
    };
    Error::new(kind, message).with_effect(effect).with_source(error)
}

const IN_ITS_PLACE: &str = "another client's ephemeral node stands where the lock's folder should be; look at it, and \
                            remove it if nobody needs it";

/// The error for a node that can't have a lock's nodes below it.
pub(crate) fn not_a_folder() -> Error {
    Error::new(ErrorKind::Corrupt, IN_ITS_PLACE)
}

/// The error for a client that was closed, or whose runtime is gone.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the client was closed, or the runtime that made it is gone; make another client")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_kind_and_effect() {
        use Effect::{NotApplied, Unknown};
        for (error, kind, effect) in [
            (Zk::NoAuth, ErrorKind::Unauthorized, NotApplied),
            (Zk::AuthFailed, ErrorKind::Unauthorized, NotApplied),
            (Zk::InvalidAcl, ErrorKind::Unauthorized, NotApplied),
            (Zk::NoHosts, ErrorKind::Unavailable, NotApplied),
            (Zk::Throttled, ErrorKind::Unavailable, NotApplied),
            (Zk::SessionMoved, ErrorKind::Unavailable, NotApplied),
            (Zk::NotReadOnly, ErrorKind::Unavailable, NotApplied),
            (Zk::ConnectionLoss, ErrorKind::Unavailable, Unknown),
            (Zk::Timeout, ErrorKind::Unavailable, Unknown),
            (Zk::SessionExpired, ErrorKind::Unavailable, Unknown),
            (Zk::ClientClosed, ErrorKind::Unavailable, Unknown),
            (Zk::NoChildrenForEphemerals, ErrorKind::Corrupt, NotApplied),
            (Zk::Unimplemented, ErrorKind::Unsupported, NotApplied),
            (Zk::BadArguments(&"x"), ErrorKind::InvalidConfig, NotApplied),
            (Zk::NoNode, ErrorKind::Unexpected, NotApplied),
            (Zk::QuotaExceeded, ErrorKind::Unexpected, NotApplied),
            (Zk::UnexpectedError("x".into()), ErrorKind::Unexpected, Unknown),
            (Zk::UnexpectedErrorCode(-7), ErrorKind::Unexpected, Unknown),
        ] {
            assert_eq!(classify(&error), (kind, effect), "{error}");
        }
    }
}
