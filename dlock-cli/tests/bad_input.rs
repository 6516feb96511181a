//! Each wrong input has its own clear error and exit code, and runs nothing.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, stderr};
use dlock_fixtures::{RedisOptions, RedisServer, free_port};
use std::process::Command;

/// Runs with this URL, and answers the exit code and what was said.
fn run(url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dlock"))
        .args(["run", "--url", url])
        .args(arguments)
        .args(["--", "sh", "-c", "echo the command ran >&2"])
        .output()
        .unwrap();
    let said = stderr(&output);
    assert!(!said.contains("the command ran"), "{url} {arguments:?}");
    (output.status.code(), said)
}

fn is_refused(url: &str, arguments: &[&str], code: i32, words: &[&str]) {
    let (status, said) = run(url, arguments);
    assert_eq!(status, Some(code), "{url} {arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{url} {arguments:?}: {word:?} is not in: {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_wrong_url_is_refused() {
    for (url, words) in [
        ("no-url", &["scheme"][..]),
        ("redis://h:99999", &["port"]),
        ("redis://:hunter2#@h", &["%23"]),
        ("ftp://h", &["no backend is known for ftp", "redis"]),
        ("redis://h?tll=5s", &["no parameter \"tll\"", "ttl"]),
        ("redis://h?ttl=five", &["ttl", "30s"]),
        ("redis://h/first", &["number of a database"]),
        ("redis://h1,h2", &["one host"]),
        ("local:", &["no path"]),
        ("local://host/path", &["no host"]),
        ("local:/no/such/folder/locks.db", &["/no/such/folder"]),
        ("local:/tmp", &["folder"]),
        ("local:/dev/null/x", &["/dev/null"]),
        ("local:/proc/locks.db", &["/proc"]),
    ] {
        is_refused(url, &["k"], 78, words);
    }
}

#[test]
fn a_wrong_key_or_ttl_is_refused() {
    let place = Place::local();
    let long = "x".repeat(256);
    for (arguments, words) in [
        (&[""][..], &["empty"][..]),
        (&[long.as_str()], &["256 bytes", "255"]),
        (&["a\nb"], &["control character"]),
        (&["--ttl", "0s", "k"], &["TTL of 0s", "10ms"]),
        (&["--ttl", "48h", "k"], &["TTL of 2days"]),
        (&["--ttl", "soon", "k"], &["30s"]),
        (&["--permits", "0", "k"], &["0 permits"]),
        (&["--permits", "2", "--shared", "k"], &["cannot be used with"]),
        (&["--grace", "20s", "k"], &["a third of the TTL"]),
        (&["--try", "--wait", "1s", "k"], &["cannot be used with"]),
    ] {
        is_refused(&place.url, arguments, 64, words);
    }
}

#[test]
fn a_grace_that_is_too_long_is_refused_before_the_lock_is_asked_for() {
    let place = Place::redis();
    let mut holder = place.start(&["run", "k", "--", "sh", "-c", "echo holds >> $J; sleep 60"], "holds");
    is_refused(&place.url, &["--grace", "20s", "k"], 64, &["a third of the TTL"]);
    is_refused(&place.url, &["--grace", "20s", "free"], 64, &["a third of the TTL"]);
    let shown = place.output(&["ls", "--json"]);
    assert_eq!(String::from_utf8_lossy(&shown.stdout).lines().count(), 1);
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_prefix_is_refused_where_it_would_mean_nothing() {
    let place = Place::local();
    for command in ["init", "check"] {
        let output = place.output(&["--prefix", "billing", command]);
        assert_eq!(output.status.code(), Some(64));
        assert!(stderr(&output).contains("--prefix"), "{}", stderr(&output));
    }
}

#[test]
fn a_run_without_a_store_says_that_it_is_among_this_user_only() {
    let place = Place::local();
    let output = Command::new(env!("CARGO_BIN_EXE_dlock"))
        .args(["run", "k", "--", "true"])
        .env_remove("DLOCK_URL")
        .env("XDG_STATE_HOME", place.folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("--url-file or DLOCK_URL"), "{}", stderr(&output));
    assert!(place.path("dlock/locks.db").exists());
}

#[test]
fn a_file_that_is_not_ours_stays_as_it_is() {
    let place = Place::local();
    let text = "not a database, but somebody's notes\n".repeat(40);
    std::fs::write(place.path("notes"), &text).unwrap();
    is_refused(&format!("local:{}", place.path("notes").display()), &["k"], 78, &["left as it is"]);
    assert_eq!(std::fs::read_to_string(place.path("notes")).unwrap(), text);
}

#[test]
fn a_server_that_refuses_or_is_not_there_is_told_apart() {
    let password = Some("correct".to_owned());
    let users = vec!["worker on >hunter2 ~other:* +@all".to_owned()];
    let server = RedisServer::start_with(&RedisOptions { password, users, ..RedisOptions::default() });
    let port = server.port();
    is_refused(&format!("redis://:hunter2@127.0.0.1:{port}"), &["k"], 78, &["credentials"]);
    is_refused(&format!("redis://127.0.0.1:{port}"), &["k"], 78, &["credentials"]);
    is_refused(&format!("redis://worker:hunter2@127.0.0.1:{port}"), &["k"], 78, &["lacks a right"]);
    is_refused(&format!("redis://127.0.0.1:{}", free_port()), &["k"], 69, &["nothing listens"]);
    // A port that accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    is_refused(&format!("redis://127.0.0.1:{port}?op_timeout=300ms"), &["k"], 69, &["did not answer"]);
}

#[test]
fn a_corrupt_record_is_told_and_stays() {
    let place = Place::redis();
    let client = |arguments: &[&str]| {
        let output = Command::new("redis-cli").args(["-u", &place.url]).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    client(&["rpush", "k", "what is this"]);
    is_refused(&place.url, &["k"], 78, &["no lock of ours"]);
    assert_eq!(client(&["lrange", "k", "0", "-1"]).trim(), "what is this");
}
