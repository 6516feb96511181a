//! The README's table of stores, from what the backends themselves declare:
//! `cargo run --example store_table --features full`

use dlocks::memory::Memory;
use dlocks::{Capabilities, Lifetime, Wake};

fn main() {
    let stores: &[(&str, &str, Capabilities)] = &[
        ("memory", "`memory:`", Memory::CAPABILITIES),
        #[cfg(feature = "local")]
        ("one machine (SQLite)", "`local:/path/locks.db`", dlocks::local::LocalBackend::CAPABILITIES),
        #[cfg(feature = "redis")]
        ("Redis", "`redis://host:6379`", dlocks::redis::RedisBackend::CAPABILITIES),
        #[cfg(feature = "etcd")]
        ("etcd", "`etcd://host:2379`", dlocks::etcd::EtcdBackend::CAPABILITIES),
        #[cfg(feature = "zk")]
        ("ZooKeeper", "`zk://host:2181`", dlocks::zk::ZkBackend::CAPABILITIES),
        #[cfg(feature = "dynamo")]
        ("DynamoDB", "`dynamodb://table?region=…`", dlocks::dynamo::DYNAMO_CAPABILITIES),
        #[cfg(feature = "sql")]
        ("PostgreSQL", "`postgres://host/database`", dlocks::sql::POSTGRES_CAPABILITIES),
        #[cfg(feature = "sql")]
        ("MySQL, MariaDB", "`mysql://host/database`", dlocks::sql::MYSQL_CAPABILITIES),
    ];
    println!(
        "| store | URL | modes | order | a waiter knows | a dead holder's lock is free after | tokens grow over | TTL |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, url, can) in stores {
        println!("| {name} | {url} | {} |", row(can).join(" | "));
    }
}

fn row(can: &Capabilities) -> [String; 6] {
    let modes = [("exclusive", true), ("shared", can.shared), ("permits", can.permits)];
    let modes: Vec<_> = modes.iter().filter(|(_, has)| *has).map(|(mode, _)| *mode).collect();
    let order = if can.fifo { "FIFO" } else { "any" };
    let wake = match can.wake {
        Wake::Event => "at once".to_owned(),
        Wake::Poll(apart) => format!("within {apart:?}"),
    };
    let free = match (can.death_seen_within, can.lifetime) {
        (Some(soon), _) => format!("{soon:?}, whatever its TTL"),
        (None, Lifetime::Lease) => format!("its TTL + {:?}", can.lateness),
        (None, Lifetime::Session) => format!("its session's TTL + {:?}", can.lateness),
    };
    let mut survives = vec!["release, expiry, purge"];
    survives.extend(can.token_survives.restart.then_some("restart"));
    survives.extend(can.token_survives.data_loss.then_some("loss of all data"));
    let ttl = format!("{:?} to {} h", can.ttl.min, can.ttl.max.as_secs() / 3600);
    [modes.join(", "), order.into(), wake, free, survives.join(", "), ttl]
}
