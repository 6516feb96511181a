//! Locks in ZooKeeper: Curator's recipe on one session.
