//! Locks in DynamoDB: one item a lock, conditional writes only.
