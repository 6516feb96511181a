//! dlock backend for one machine: a SQLite file shared by many processes.
