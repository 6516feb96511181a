//! The project's own tasks: test, servers, verify.
fn main() {}
