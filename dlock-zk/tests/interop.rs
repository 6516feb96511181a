//! kazoo's `Lock` and ours exclude each other, on one folder.
#![allow(clippy::unwrap_used)]

mod support;

use dlock_core::Clock;
use dlock_fixtures::{ZooKeeperServer, python};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{client, raw};
use zookeeper_client::{Acls, CreateMode};

/// A Python program that has `zk`, a client of kazoo, and `lock(name)`, which knows our nodes.
fn program(server: &ZooKeeperServer, body: &str) -> Command {
    let start = format!(
        "import time\nfrom kazoo.client import KazooClient\nfrom kazoo.exceptions import LockTimeout\n\
         zk = KazooClient('127.0.0.1:{}')\nzk.start()\n\
         def lock(name): return zk.Lock('/dlock/' + name, 'kazoo', extra_lock_patterns=['-lock-'])\n{body}",
        server.port()
    );
    let mut command = Command::new(python());
    command.args(["-c", &start]);
    command
}

/// What it prints.
async fn kazoo(server: &ZooKeeperServer, body: &str) -> String {
    let mut command = program(server, body);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn kazoo_finds_our_lock_held_and_ours_finds_its() {
    let server = ZooKeeperServer::start();
    let locks = client(&server).await;
    // A key with a slash is one folder.
    let attempt = "print(lock('jobs%2F1').acquire(blocking=False))";
    for mode in [locks.lock("jobs/1"), locks.lock("jobs/1").shared(), locks.lock("jobs/1").permits(3)] {
        let guard = mode.acquire().await.unwrap();
        assert_eq!(kazoo(&server, attempt).await, "False");
        guard.release().await.unwrap();
    }
    let body = "held = lock('jobs%2F1'); print(held.acquire(), flush=True); time.sleep(60)";
    let mut holder = program(&server, body).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut first).unwrap();
    assert_eq!(&first, b"True");
    assert!(locks.lock("jobs/1").try_acquire().await.unwrap().is_none());
    assert!(locks.lock("jobs/1").shared().try_acquire().await.unwrap().is_none());
    let info = locks.inspect("jobs/1").await.unwrap();
    let kazoos = &info.holders[0];
    assert_eq!((kazoos.label.as_ref(), kazoos.token, info.holders.len()), (None, None, 1));
    // A foreign holder can be looked at and broken.
    assert!(locks.break_lock("jobs/1", &kazoos.id).await.unwrap());
    locks.lock("jobs/1").try_acquire().await.unwrap().expect("free").release().await.unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kazoo_and_we_take_turns_without_overlap() {
    let server = ZooKeeperServer::start();
    let (locks, raw) = (client(&server).await, raw(&server).await);
    // kazoo makes the folder once, and a container may go whenever it is empty.
    raw.mkdir("/dlock/k", &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.unwrap();
    raw.create("/sum", b"0", &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.unwrap();
    let inside = Arc::new(AtomicBool::new(false));
    let foreign = kazoo(
        &server,
        "
held = lock('k')
turns = 0
for n in range(50):
    with held:
        v = int(zk.get('/sum')[0]); time.sleep(0.001); zk.set('/sum', str(v + 1).encode())
    turns += 1
print(turns)
",
    );
    let ours = async {
        let clock = Clock::system();
        for _ in 0..50 {
            let guard = locks.lock("k").acquire().await.unwrap();
            assert!(!inside.swap(true, Ordering::SeqCst));
            let sum: u64 = String::from_utf8(raw.get_data("/sum").await.unwrap().0).unwrap().parse().unwrap();
            clock.sleep(Duration::from_millis(1)).await;
            raw.set_data("/sum", (sum + 1).to_string().as_bytes(), None).await.unwrap();
            inside.store(false, Ordering::SeqCst);
            guard.release().await.unwrap();
            // So that kazoo, which is slower, has its turns between ours.
            clock.sleep(Duration::from_millis(5)).await;
        }
    };
    let (turns, ()) = tokio::join!(foreign, ours);
    assert_eq!(turns, "50");
    assert_eq!(raw.get_data("/sum").await.unwrap().0, b"100");
}

#[tokio::test(flavor = "multi_thread")]
async fn curators_read_write_lock_keeps_us_out() {
    let server = ZooKeeperServer::start();
    let (locks, raw) = (client(&server).await, raw(&server).await);
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    let guid = "_c_0f8fad5b-d9cb-469f-a165-70867728950e";
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    for (name, shared_too) in [("__READ__", true), ("__WRIT__", false)] {
        let prefix = format!("/dlock/k/{guid}-{name}");
        let (_, sequence) = raw.create(&prefix, b"127.0.0.1", &options).await.unwrap();
        assert!(locks.lock("k").try_acquire().await.unwrap().is_none());
        let reader = locks.lock("k").shared().try_acquire().await.unwrap();
        assert_eq!(reader.is_some(), shared_too);
        drop(reader);
        raw.delete(&format!("{prefix}{sequence}"), None).await.unwrap();
        locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    }
}
