//! Locks in etcd: a queue of keys under one session lease.
