//! From the client's errors to ours.

use dlock_core::{Effect, Error, ErrorKind};
use etcd_client::Error as EtcdError;
use std::error::Error as StdError;

/// gRPC's status codes, as numbers.
mod code {
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const INTERNAL: i32 = 13;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// Whether a request failed because its lease is no longer there: then it changed nothing.
pub(crate) fn is_lease_gone(error: &EtcdError) -> bool {
    match error {
        EtcdError::GRpcStatus(status) => {
            i32::from(status.code()) == code::NOT_FOUND && status.message().contains("lease not found")
        }
        EtcdError::LeaseKeepAliveError(message) => message == "lease not found",
        _ => false,
    }
}

/// Whether users or roles were changed since the client's token was made, which the client itself does not take for a reason to
/// get another.
pub(crate) fn is_token_old(error: &EtcdError) -> bool {
    matches!(error, EtcdError::GRpcStatus(status) if status.message().contains(OLD_TOKEN))
}

const OLD_TOKEN: &str = "revision of auth store is old";

/// Whether an answer was longer than the client reads.
pub(crate) fn is_too_long(error: &EtcdError) -> bool {
    matches!(error, EtcdError::GRpcStatus(status) if i32::from(status.code()) == code::OUT_OF_RANGE)
}

/// What an error of the client is to us, and whether the request may have been carried out.
pub(crate) fn classify(error: &EtcdError) -> (ErrorKind, Effect) {
    match error {
        EtcdError::GRpcStatus(status) => of_status(status.code().into(), status.message(), status.source()),
        EtcdError::InvalidArgs(_) | EtcdError::InvalidUri(_) | EtcdError::InvalidMetadataValue(_) => {
            (ErrorKind::InvalidConfig, Effect::NotApplied)
        }
        EtcdError::TransportError(error) if has_cause(Some(error), is_config) => {
            (ErrorKind::InvalidConfig, Effect::NotApplied)
        }
        EtcdError::IoError(_)
        | EtcdError::TransportError(_)
        | EtcdError::WatchError(_)
        | EtcdError::LeaseKeepAliveError(_)
        | EtcdError::EndpointError(_) => (ErrorKind::Unavailable, Effect::Unknown),
        _ => (ErrorKind::Unexpected, Effect::Unknown),
    }
}

fn of_status(code: i32, message: &str, source: Option<&(dyn StdError + 'static)>) -> (ErrorKind, Effect) {
    match code {
        _ if message.contains(OLD_TOKEN) => (ErrorKind::Unavailable, Effect::NotApplied),
        code::UNAUTHENTICATED | code::PERMISSION_DENIED => (ErrorKind::Unauthorized, Effect::NotApplied),
        // So etcd says that the password is wrong, or missing.
        code::INVALID_ARGUMENT if message.contains("authentication failed") || message.contains("user name") => {
            (ErrorKind::Unauthorized, Effect::NotApplied)
        }
        code::FAILED_PRECONDITION if message.contains("authentication is not enabled") => {
            (ErrorKind::InvalidConfig, Effect::NotApplied)
        }
        code::RESOURCE_EXHAUSTED => (ErrorKind::Unavailable, Effect::NotApplied),
        code::UNIMPLEMENTED => (ErrorKind::Unsupported, Effect::NotApplied),
        code::UNAVAILABLE | code::UNKNOWN if has_cause(source, is_never_sent) => {
            (ErrorKind::Unavailable, Effect::NotApplied)
        }
        // A connection that breaks shows as any of these.
        code::UNAVAILABLE | code::UNKNOWN | code::CANCELLED | code::DEADLINE_EXCEEDED | code::INTERNAL => {
            (ErrorKind::Unavailable, Effect::Unknown)
        }
        _ => (ErrorKind::Unexpected, Effect::Unknown),
    }
}

/// Whether an error, or what caused it, is so.
fn has_cause(mut error: Option<&(dyn StdError + 'static)>, is: fn(&(dyn StdError + 'static)) -> bool) -> bool {
    while let Some(cause) = error {
        if is(cause) {
            return true;
        }
        error = cause.source();
    }
    false
}

fn is_refused(error: &(dyn StdError + 'static)) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn is_distrust(error: &(dyn StdError + 'static)) -> bool {
    error.to_string().contains("invalid peer certificate")
}

fn is_never_sent(error: &(dyn StdError + 'static)) -> bool {
    is_refused(error) || is_distrust(error)
}

fn is_config(error: &(dyn StdError + 'static)) -> bool {
    let text = error.to_string();
    text.contains("invalid URI") || text.contains("certificate") || text.contains("private key")
}

pub(crate) fn from_etcd(error: EtcdError) -> Error {
    let (kind, effect) = classify(&error);
    let source: Option<&(dyn StdError + 'static)> = match &error {
        EtcdError::GRpcStatus(status) => status.source(),
        EtcdError::TransportError(error) => Some(error),
        _ => None,
    };
    let message = match kind {
        ErrorKind::Unauthorized => {
            "the server refused the user or the password, or this user lacks a right; a lock needs to read and write \
             all keys under its prefix"
        }
        ErrorKind::InvalidConfig => "the URL's settings do not go with this server; look at its hosts, user and TLS",
        ErrorKind::Unsupported => "this server lacks a request that locks need; etcd 3.4 or newer is needed",
        ErrorKind::Unavailable if has_cause(source, is_distrust) => {
            "the server's certificate is not trusted; look at the parameters ca and domain"
        }
        ErrorKind::Unavailable if has_cause(source, is_refused) => "nothing listens there; is the server up?",
        ErrorKind::Unavailable => "the server did not answer, or can't now",
        _ => "the server answered with an error",
    };
    Error::new(kind, message).with_effect(effect).with_source(error)
}

/// No answer in time: the request may have been carried out.
pub(crate) fn no_answer() -> Error {
    Error::new(ErrorKind::Unavailable, "the server gave no answer in time").with_effect(Effect::Unknown)
}

/// No answer in time to what came before the request.
pub(crate) fn not_sent() -> Error {
    Error::new(ErrorKind::Unavailable, "the session with the server could not be opened or kept in time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_kind_and_effect() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let distrust = std::io::Error::other("invalid peer certificate: UnknownIssuer");
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        for (code, message, source, kind, effect) in [
            (16, "etcdserver: invalid auth token", None, ErrorKind::Unauthorized, Effect::NotApplied),
            (7, "etcdserver: permission denied", None, ErrorKind::Unauthorized, Effect::NotApplied),
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                None,
                ErrorKind::Unauthorized,
                Effect::NotApplied,
            ),
            (3, "etcdserver: user name is empty", None, ErrorKind::Unauthorized, Effect::NotApplied),
            (3, "etcdserver: revision of auth store is old", None, ErrorKind::Unavailable, Effect::NotApplied),
            (3, "etcdserver: duplicate key given in txn request", None, ErrorKind::Unexpected, Effect::Unknown),
            (9, "etcdserver: authentication is not enabled", None, ErrorKind::InvalidConfig, Effect::NotApplied),
            (8, "etcdserver: mvcc: database space exceeded", None, ErrorKind::Unavailable, Effect::NotApplied),
            (12, "unknown service", None, ErrorKind::Unsupported, Effect::NotApplied),
            (14, "etcdserver: no leader", None, ErrorKind::Unavailable, Effect::Unknown),
            (14, "tcp connect error", Some(&refused), ErrorKind::Unavailable, Effect::NotApplied),
            (14, "transport error", Some(&distrust), ErrorKind::Unavailable, Effect::NotApplied),
            (14, "transport error", Some(&broken), ErrorKind::Unavailable, Effect::Unknown),
            (2, "h2 protocol error", None, ErrorKind::Unavailable, Effect::Unknown),
            (4, "timed out", None, ErrorKind::Unavailable, Effect::Unknown),
            (1, "cancelled", None, ErrorKind::Unavailable, Effect::Unknown),
            (13, "stream ended", None, ErrorKind::Unavailable, Effect::Unknown),
            (11, "required revision has been compacted", None, ErrorKind::Unexpected, Effect::Unknown),
        ] {
            let source = source.map(|source: &std::io::Error| source as &(dyn StdError + 'static));
            assert_eq!(of_status(code, message, source), (kind, effect), "{code} {message}");
        }
    }

    #[test]
    fn errors_without_a_status_have_theirs() {
        for (error, kind, effect) in [
            (EtcdError::InvalidArgs("x".into()), ErrorKind::InvalidConfig, Effect::NotApplied),
            (EtcdError::IoError(std::io::ErrorKind::ConnectionReset.into()), ErrorKind::Unavailable, Effect::Unknown),
            (EtcdError::WatchError("x".into()), ErrorKind::Unavailable, Effect::Unknown),
            (EtcdError::LeaseKeepAliveError("x".into()), ErrorKind::Unavailable, Effect::Unknown),
            (EtcdError::Internal("x".into()), ErrorKind::Unexpected, Effect::Unknown),
        ] {
            assert_eq!(classify(&error), (kind, effect), "{error}");
        }
        assert!(is_lease_gone(&EtcdError::LeaseKeepAliveError("lease not found".into())));
        assert!(!is_lease_gone(&EtcdError::LeaseKeepAliveError("closed".into())));
    }
}
