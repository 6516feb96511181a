//! What a Redis replies that is not as the scripts left it, or that is no Redis: an error, never a panic.
#![no_main]
#![allow(dead_code)]

/// Where the reader of replies finds its error.
mod connection {
    use dlock_core::{Error, ErrorKind};

    pub(crate) fn not_understood(what: &str) -> Error {
        Error::new(ErrorKind::Corrupt, what.to_owned())
    }
}
#[path = "../../dlock-redis/src/reply.rs"]
mod reply;

use dlock_core::LockKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = redis::parse_redis_value(bytes) else { return };
    let key = LockKey::new("k").expect("a key");
    let _ = reply::Answer::read(&key, &value);
    let _ = reply::Seen::read(&key, &value);
});
