//! dlock backend for Redis: one script an operation.
