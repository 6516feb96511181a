//! Command lines of any words: understood or refused, never a panic.
#![no_main]
#![allow(dead_code)]

#[path = "../../dlock-cli/src/cli.rs"]
mod cli;

use clap::Parser;
use libfuzzer_sys::fuzz_target;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

fuzz_target!(|bytes: &[u8]| {
    let words = bytes.split(|byte| *byte == b'\n').map(OsStr::from_bytes);
    if let Err(error) = cli::Cli::try_parse_from([OsStr::new("dlock")].into_iter().chain(words)) {
        assert!(!error.to_string().is_empty());
    }
});
