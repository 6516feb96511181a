//! From the client's errors to ours.

use dlock_core::{Effect, Error, ErrorKind};
use redis::{ErrorKind as Kind, RedisError, ServerErrorKind};
use std::error::Error as StdError;
use std::sync::Arc;

/// What an error of the client is to us, and whether the script may have run.
pub(crate) fn classify(error: &RedisError) -> (ErrorKind, Effect) {
    match (error.kind(), error.code()) {
        (_, Some("WRONGTYPE" | "DLOCKCORRUPT")) => (ErrorKind::Corrupt, Effect::NotApplied),
        (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) | (Kind::AuthenticationFailed, _) => {
            (ErrorKind::Unauthorized, Effect::NotApplied)
        }
        (_, Some("DLOCKBADTTL")) => (ErrorKind::InvalidConfig, Effect::NotApplied),
        (
            _,
            Some(
                "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "OOM" | "BUSY" | "NOREPLICAS"
                | "MISCONF" | "CROSSSLOT",
            ),
        ) => (ErrorKind::Unavailable, Effect::NotApplied),
        (Kind::Server(ServerErrorKind::NoPerm), _) => (ErrorKind::Unauthorized, Effect::NotApplied),
        (Kind::RESP3NotSupported, _) => (ErrorKind::Unsupported, Effect::NotApplied),
        (Kind::InvalidClientConfig, _) => (ErrorKind::InvalidConfig, Effect::NotApplied),
        _ if error.is_connection_refusal() => (ErrorKind::Unavailable, Effect::NotApplied),
        _ if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
            (ErrorKind::Unavailable, Effect::Unknown)
        }
        // What a server says at random while it goes down, or what is no Redis.
        (Kind::Parse, _) => (ErrorKind::Unavailable, Effect::Unknown),
        _ => (ErrorKind::Unexpected, Effect::Unknown),
    }
}

/// Whether the server has to be given the script that it was asked to run.
pub(crate) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == Kind::Server(ServerErrorKind::NoScript)
}

/// Whether the server has refused a request before it did any of it.
pub(crate) fn is_refused(error: &RedisError) -> bool {
    matches!(error.kind(), Kind::Server(_) | Kind::Extension) && classify(error).1 == Effect::NotApplied
}

pub(crate) fn from_redis(error: RedisError) -> Error {
    let (kind, effect) = classify(&error);
    let message = match kind {
        ErrorKind::Corrupt => {
            "the key has something that is no lock of ours; look at it, and remove it if nobody needs it"
        }
        ErrorKind::Unauthorized => {
            "the server refused the credentials, or this user lacks a right; a lock needs its keys (~), \
             the channels &dlock:* and the commands +@scripting +@read +@write +@fast +@pubsub +@connection +scan"
        }
        ErrorKind::Unsupported => "this server does not speak RESP3; Redis 7 or newer is needed",
        ErrorKind::Unavailable if error.is_connection_refusal() => "nothing listens there; is the server up?",
        ErrorKind::Unavailable if is_tls(&error) => {
            "no TLS connection could be made: look at the server's certificate, and at ca in the URL"
        }
        ErrorKind::Unavailable => "the server did not answer, or can't now",
        ErrorKind::InvalidConfig => "the server refused the request's settings",
        _ => "the server answered with an error",
    };
    Error::new(kind, message).with_effect(effect).with_source(error)
}

/// A certificate that is not accepted comes as data that make no sense.
fn is_tls(error: &RedisError) -> bool {
    let shared = error.source().and_then(|source| source.downcast_ref::<Arc<dyn StdError + Send + Sync>>());
    let source = shared.and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> RedisError {
        redis::make_extension_error(code.to_owned(), Some("detail".to_owned()))
    }

    #[test]
    fn each_error_has_its_kind_and_effect() {
        for (error, kind, effect) in [
            (server("WRONGTYPE"), ErrorKind::Corrupt, Effect::NotApplied),
            (server("DLOCKCORRUPT"), ErrorKind::Corrupt, Effect::NotApplied),
            (server("NOAUTH"), ErrorKind::Unauthorized, Effect::NotApplied),
            (server("WRONGPASS"), ErrorKind::Unauthorized, Effect::NotApplied),
            (server("NOPERM"), ErrorKind::Unauthorized, Effect::NotApplied),
            (server("LOADING"), ErrorKind::Unavailable, Effect::NotApplied),
            (server("READONLY"), ErrorKind::Unavailable, Effect::NotApplied),
            (server("OOM"), ErrorKind::Unavailable, Effect::NotApplied),
            (server("ERR"), ErrorKind::Unexpected, Effect::Unknown),
            (
                std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into(),
                ErrorKind::Unavailable,
                Effect::NotApplied,
            ),
            (std::io::Error::from(std::io::ErrorKind::BrokenPipe).into(), ErrorKind::Unavailable, Effect::Unknown),
            (std::io::Error::from(std::io::ErrorKind::TimedOut).into(), ErrorKind::Unavailable, Effect::Unknown),
        ] {
            assert_eq!(classify(&error), (kind, effect), "{error}");
        }
    }
}
