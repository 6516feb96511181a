//! The lock file: opened, refused, shared and left.
#![allow(clippy::unwrap_used)]

use dlock_core::{Clock, Config, ErrorKind, Locks, Registry};
use dlock_local::LocalBackend;
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

async fn locks(path: &Path) -> Locks {
    Locks::new(LocalBackend::open(path).await.unwrap()).unwrap()
}

async fn is_refused(path: &Path, kind: ErrorKind, word: &str) {
    let error = LocalBackend::open(path).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{}", error.chain());
    assert!(error.chain().to_string().contains(word), "{}", error.chain());
}

#[tokio::test]
async fn what_is_no_lock_file_is_refused_and_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    is_refused(folder.path(), ErrorKind::InvalidConfig, "folder").await;
    is_refused(&at("missing/locks.db"), ErrorKind::InvalidConfig, "make it first").await;

    std::fs::write(at("notes"), "not a database at all, ".repeat(100)).unwrap();
    let before = std::fs::read(at("notes")).unwrap();
    is_refused(&at("notes"), ErrorKind::Corrupt, "left as it is").await;
    assert_eq!(std::fs::read(at("notes")).unwrap(), before);

    let foreign = Connection::open(at("foreign.db")).unwrap();
    foreign.execute_batch("CREATE TABLE accounts (id)").unwrap();
    is_refused(&at("foreign.db"), ErrorKind::Corrupt, "another program").await;
    let tables: i64 = foreign.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);

    drop(locks(&at("newer.db")).await);
    Connection::open(at("newer.db")).unwrap().pragma_update(None, "user_version", 2).unwrap();
    is_refused(&at("newer.db"), ErrorKind::Unsupported, "update dlock").await;
}

#[tokio::test]
async fn a_url_names_the_file() {
    let folder = TempDir::new().unwrap();
    let registry = Registry::new().with(dlock_local::driver());
    let path = folder.path().join("with space.db");
    let url = format!("local:{}?sync=full", path.display().to_string().replace(' ', "%20"));
    let locks = registry.connect_with(&Config::new(url.parse().unwrap())).await.unwrap();
    locks.lock("a").acquire().await.unwrap().release().await.unwrap();
    assert!(path.is_file());
    let wrong = registry.connect(&format!("local:{}?sync=maybe", path.display())).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn two_clients_of_one_process_exclude_each_other_by_any_path() {
    let folder = TempDir::new().unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("link")).unwrap();
    let one = locks(&folder.path().join("locks.db")).await;
    let two = locks(&folder.path().join("link/locks.db")).await;
    let guard = one.lock("a").acquire().await.unwrap();
    assert!(two.lock("a").try_acquire().await.unwrap().is_none());
    // The file outlives one of its clients.
    drop(one);
    assert!(two.lock("a").try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
    assert!(two.lock("a").try_acquire().await.unwrap().is_some());
}

#[tokio::test]
async fn a_file_that_was_replaced_is_told() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("locks.db");
    let old = locks(&path).await;
    let _guard = old.lock("a").acquire().await.unwrap();
    for name in ["locks.db", "locks.db-wal", "locks.db-shm"] {
        let _ = std::fs::remove_file(folder.path().join(name));
    }
    let new = locks(&path).await;
    let guard = new.lock("a").acquire().await.unwrap();
    let error = old.lock("b").try_acquire().await.unwrap_err();
    assert!(error.to_string().contains("deleted or replaced"), "{error}");
    guard.release().await.unwrap();
}

#[tokio::test]
async fn signs_of_life_are_cleared_away_once_nobody_names_them() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("locks.db");
    let alive = folder.path().join("locks.db-alive");
    for _ in 0..5 {
        locks(&path).await.lock("a").acquire().await.unwrap().release().await.unwrap();
        // Nothing else keeps the client, so the file is closed with it.
    }
    // Those of this process are still alive, or were cleared away by the next.
    let _last = locks(&path).await;
    assert!(std::fs::read_dir(&alive).unwrap().count() <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancelled_acquires_leave_the_key_free_and_no_rows() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("locks.db");
    let (one, two) = (locks(&path).await, locks(&path).await);
    let clock = Clock::system();
    let (mut cut, mut longest) = (0, Duration::ZERO);
    for round in 0..1_000_u64 {
        let holder = if round % 2 == 0 { two.lock("k").try_acquire().await.unwrap() } else { None };
        let moment = clock.now() + Duration::from_micros(u64::from(round_hash(round)) % 900);
        let acquired = clock.timeout_at(moment, one.lock("k").acquire()).await;
        cut += usize::from(acquired.is_none());
        drop(acquired);
        drop(holder);
        let begun = clock.now();
        let guard = two.lock("k").wait_at_most(Duration::from_secs(5)).acquire().await.expect("the key is free");
        longest = longest.max(clock.now().since(begun));
        guard.release().await.unwrap();
    }
    println!("{cut} of 1000 were cut off; the key was free again after {longest:?} at the most");
    assert!(cut > 300, "only {cut} were cut off");
    assert!(longest < Duration::from_millis(260), "{longest:?}");
    let rows = || -> i64 {
        let sql = Connection::open(&path).unwrap();
        sql.query_row("SELECT count(*) FROM locks", [], |row| row.get(0)).unwrap()
    };
    dlock_fixtures::wait_until("no rows are left", Duration::from_secs(10), || rows() == 0);
}

/// A number that looks like chance, the same in each run.
fn round_hash(round: u64) -> u32 {
    u32::try_from((round.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 40).unwrap()
}
