//! The conformance suite that every dlock backend must pass.
