//! Our locks, `etcdctl lock` and Go's `concurrency.Mutex` exclude each other, on one name.
#![allow(clippy::unwrap_used)]

use dlock_core::{ErrorKind, Locks};
use dlock_etcd::EtcdBackend;
use dlock_fixtures::{EtcdServer, wait_until};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

async fn client(server: &EtcdServer) -> Locks {
    Locks::new(EtcdBackend::connect(&server.url().parse().unwrap()).await.unwrap()).unwrap()
}

/// `etcdctl lock`, which holds until it is told to end.
struct Foreign(Child);

impl Foreign {
    fn lock(server: &EtcdServer, name: &str) -> Self {
        Self(server.etcdctl().args(["lock", name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn end(mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.0.wait().unwrap();
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_finds_our_lock_held_and_ours_finds_its() {
    let server = EtcdServer::start();
    let locks = client(&server).await;
    let long = Duration::from_secs(20);
    for ours in [locks.lock("jobs/1"), locks.lock("jobs/1").shared(), locks.lock("jobs/1").permits(3)] {
        // Ours first: theirs waits, behind it.
        let guard = ours.acquire().await.unwrap();
        let foreign = Foreign::lock(&server, "dlock/jobs%2F1");
        wait_until("theirs is in the queue", long, || server.keys("dlock/jobs%2F1/").len() == 2);
        let info = locks.inspect("jobs/1").await.unwrap();
        let waiter = &info.waiters.as_ref().unwrap()[0];
        assert_eq!((info.holders[0].id.clone(), waiter.label.as_ref(), waiter.mode), (guard.holder(), None, None));
        // Theirs first: ours waits, and so does another of theirs behind it.
        guard.release().await.unwrap();
        let theirs = waiter.id.clone();
        let info = locks.inspect("jobs/1").await.unwrap();
        assert_eq!((info.holders[0].id.clone(), info.holders[0].token), (theirs, None));
        assert!(info.holders[0].remaining.is_some());
        assert!(locks.lock("jobs/1").try_acquire().await.unwrap().is_none());
        assert!(locks.lock("jobs/1").shared().try_acquire().await.unwrap().is_none());
        let error = locks.lock("jobs/1").permits(3).try_acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let waiting = tokio::spawn(locks.lock("jobs/1").acquire());
        wait_until("ours is in the queue", long, || server.keys("dlock/jobs%2F1/").len() == 2);
        tokio::task::spawn_blocking(|| foreign.end()).await.unwrap();
        let guard = tokio::time::timeout(long, waiting).await.unwrap().unwrap().unwrap();
        guard.release().await.unwrap();
    }
    // A foreign holder can be broken.
    let foreign = Foreign::lock(&server, "dlock/jobs%2F1");
    wait_until("theirs holds", long, || server.keys("dlock/jobs%2F1/").len() == 1);
    let holder = locks.inspect("jobs/1").await.unwrap().holders.remove(0);
    assert!(locks.break_lock("jobs/1", &holder.id).await.unwrap());
    locks.lock("jobs/1").try_acquire().await.unwrap().expect("free").release().await.unwrap();
    drop(foreign);
}

/// Adds one to the number in a file, without any other care, and tells if somebody else was at it.
fn add_one(file: &Path) {
    let inside = file.with_extension("inside");
    std::fs::OpenOptions::new().write(true).create_new(true).open(&inside).expect("nobody else is inside");
    let sum: u64 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    std::thread::sleep(Duration::from_millis(1));
    std::fs::write(file, format!("{}\n", sum + 1)).unwrap();
    std::fs::remove_file(inside).unwrap();
}

/// Takes turns with another that makes `turns` of its own, until it has made them.
async fn take_turns(locks: &Locks, file: &Path, turns: usize, other: tokio::task::JoinHandle<()>) {
    for _ in 0..turns {
        let guard = locks.lock("a/b").acquire().await.unwrap();
        let file = file.to_owned();
        tokio::task::spawn_blocking(move || add_one(&file)).await.unwrap();
        guard.release().await.unwrap();
    }
    other.await.unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap().trim(), (2 * turns).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_and_ours_take_a_hundred_turns_without_overlap() {
    let server = EtcdServer::start();
    let locks = client(&server).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("sum");
    std::fs::write(&file, "0\n").unwrap();
    let path = file.display();
    let program = format!(
        "set -C; : > {path}.inside && n=$(cat {path}) && sleep 0.001 && echo $((n + 1)) >| {path} && rm {path}.inside"
    );
    // The marker's name is the same as ours.
    let program = program.replace(&format!("{path}.inside"), &file.with_extension("inside").display().to_string());
    let commands: Vec<_> = (0..50)
        .map(|_| {
            let mut command = server.etcdctl();
            command.args(["lock", "dlock/a%2Fb", "--", "sh", "-c", &program]);
            command
        })
        .collect();
    let other = tokio::task::spawn_blocking(move || {
        for mut command in commands {
            assert!(command.status().unwrap().success(), "two were inside");
        }
    });
    take_turns(&locks, &file, 50, other).await;
}

/// Go's `concurrency.Mutex`, on the name that its arguments say, so many times.
const GO: &str = r#"package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Args[1]}})
	must(err)
	session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
	must(err)
	defer session.Close()
	mutex := concurrency.NewMutex(session, os.Args[2])
	turns, _ := strconv.Atoi(os.Args[4])
	for i := 0; i < turns; i++ {
		must(mutex.Lock(context.Background()))
		inside, err := os.OpenFile(os.Args[3]+".inside", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		must(err)
		inside.Close()
		text, err := os.ReadFile(os.Args[3])
		must(err)
		sum, err := strconv.Atoi(strings.TrimSpace(string(text)))
		must(err)
		time.Sleep(time.Millisecond)
		must(os.WriteFile(os.Args[3], []byte(fmt.Sprintln(sum+1)), 0o600))
		must(os.Remove(os.Args[3] + ".inside"))
		must(mutex.Unlock(context.Background()))
	}
}
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a Go program, and gets its modules: cargo test -p dlock-etcd --test interop -- --ignored"]
async fn go_and_ours_take_turns_without_overlap() {
    let server = EtcdServer::start();
    let locks = client(&server).await;
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("main.go"), GO).unwrap();
    for words in ["mod init turns", "get go.etcd.io/etcd/client/v3@v3.5.17", "mod tidy", "build -o turns ."] {
        let status = Command::new("go").args(words.split(' ')).current_dir(folder.path()).status().unwrap();
        assert!(status.success(), "go {words}");
    }
    let file = folder.path().join("sum");
    std::fs::write(&file, "0\n").unwrap();
    let mut command = Command::new(folder.path().join("turns"));
    command.args([&format!("127.0.0.1:{}", server.port()), "dlock/a%2Fb"]).arg(&file).arg("100");
    let other = tokio::task::spawn_blocking(move || assert!(command.status().unwrap().success(), "two were inside"));
    take_turns(&locks, &file, 100, other).await;
}
