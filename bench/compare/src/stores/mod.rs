//! The floors and peers of each store.

#[cfg(feature = "dynamo")]
pub(crate) mod dynamodb;
#[cfg(feature = "etcd")]
pub(crate) mod etcd;
#[cfg(feature = "sql")]
pub(crate) mod mariadb;
#[cfg(feature = "sql")]
pub(crate) mod postgres;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "zk")]
pub(crate) mod zookeeper;
