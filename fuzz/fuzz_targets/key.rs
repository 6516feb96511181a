//! Keys and their segments: two keys never share one, and what leads back to a key is that key's segment.
#![no_main]

use dlock_core::LockKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(key) = LockKey::new(text) {
        let segment = key.to_segment();
        assert!(!segment.is_empty() && segment != "." && segment != "..");
        assert!(segment.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "{segment}");
        assert_eq!(LockKey::from_segment(&segment).as_ref(), Some(&key));
    }
    if let Some(key) = LockKey::from_segment(text) {
        assert_eq!(key.to_segment(), text);
    }
});
