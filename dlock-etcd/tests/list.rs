//! Many locks, and long queues, are listed page by page without loss.
#![allow(clippy::unwrap_used)]

use dlock_core::{HolderId, LockInfo, Locks};
use dlock_etcd::EtcdBackend;
use dlock_fixtures::EtcdServer;
use etcd_client::{Client, Txn, TxnOp};
use futures_util::TryStreamExt;
use std::collections::BTreeMap;

#[tokio::test(flavor = "multi_thread")]
async fn each_lock_is_listed_once_with_its_whole_queue() {
    let server = EtcdServer::start();
    let mut names: Vec<_> = (0..1_300).map(|number| format!("dlock/l{number:04}/x-{}", HolderId::random())).collect();
    // Longer than a page, amid the others; and what is no lock.
    names.extend((0..1_200).map(|_| format!("dlock/l0600%2Flong/s-{}", HolderId::random())));
    names.extend(["dlock/stray", "dlock/.withdrawn/1", "dlock/l0700%2f/x-1", "elsewhere/a/x-1"].map(str::to_owned));
    let mut raw = Client::connect([format!("127.0.0.1:{}", server.port())], None).await.unwrap();
    for names in names.chunks(100) {
        let puts: Vec<_> = names.iter().map(|name| TxnOp::put(name.as_str(), "", None)).collect();
        raw.txn(Txn::new().and_then(puts)).await.unwrap();
    }
    let locks = Locks::new(EtcdBackend::connect(&server.url().parse().unwrap()).await.unwrap()).unwrap();
    let listed: Vec<LockInfo> = locks.list("").try_collect().await.unwrap();
    let held: BTreeMap<_, _> = listed.iter().map(|info| (info.key.as_str(), info.holders.len())).collect();
    assert_eq!((listed.len(), held.len()), (1_301, 1_301), "a lock is missing or twice there");
    assert_eq!((held["l0600/long"], held["l0600"], held["l1299"]), (1_200, 1, 1));
    for (prefix, count) in [("l0600", 2), ("l0600/", 1), ("l06", 101), ("m", 0), ("a\n", 0)] {
        let listed: Vec<LockInfo> = locks.list(prefix).try_collect().await.unwrap();
        assert_eq!(listed.len(), count, "{prefix:?}");
    }
}
