//! The contract of dlock's distributed locks: traits, leases, fencing tokens, the record engine and the memory backend.
