//! TLS: the server's certificate is looked at, and what is refused is told.
#![allow(clippy::unwrap_used)]

use dlock_core::{ErrorKind, Locks, Result};
use dlock_fixtures::{Certificate, RedisOptions, RedisServer};
use dlock_redis::RedisBackend;

async fn connect(url: &str) -> Result<Locks> {
    Locks::new(RedisBackend::connect(&url.parse()?).await?)
}

async fn refused(url: &str, kind: ErrorKind, word: &str) {
    let error = connect(url).await.unwrap_err();
    let told = error.chain().to_string();
    assert_eq!(error.kind(), kind, "{told}");
    assert!(told.contains(word), "{word:?} is not in: {told}");
    assert!(!format!("{told}{error:?}").contains("hunter2"), "{told}");
}

#[tokio::test]
async fn a_lock_over_tls_and_a_server_that_is_not_trusted() {
    let folder = tempfile::TempDir::new().unwrap();
    let certificate = Certificate::make(folder.path());
    let (authority, key) = (certificate.certificate.display().to_string(), certificate.key.display().to_string());
    let options =
        RedisOptions { certificate: Some(certificate), password: Some("hunter2".into()), ..Default::default() };
    let (mut server, plain) = (RedisServer::start_with(&options), RedisServer::start());

    let url = format!("{}?op_timeout=3s&ca={authority}", server.url());
    let (one, two) =
        (connect(&url).await.unwrap(), connect(&format!("{url}&cert={authority}&key={key}")).await.unwrap());
    let guard = one.lock("k").acquire().await.unwrap();
    // A waiter is told by push over TLS as well.
    let waiter = tokio::spawn(async move { two.lock("k").acquire().await.unwrap().token() });
    while one.inspect("k").await.unwrap().waiters.is_none_or(|waiters| waiters.is_empty()) {
        tokio::task::yield_now().await;
    }
    let token = guard.token();
    guard.release().await.unwrap();
    assert!(waiter.await.unwrap() > token);
    // And after the connection broke.
    server.restart();
    one.lock("k").acquire().await.unwrap().release().await.unwrap();

    let (host, other) = (server.url(), server.url().replace("127.0.0.1", "localhost"));
    refused(&format!("{host}?op_timeout=3s"), ErrorKind::Unavailable, "certificate").await;
    refused(&format!("{other}?op_timeout=3s&ca={authority}"), ErrorKind::Unavailable, "certificate").await;
    refused(&format!("{host}?ca=/no/such/file"), ErrorKind::InvalidConfig, "/no/such/file").await;
    refused(&format!("{host}?ca={key}"), ErrorKind::InvalidConfig, "no certificate").await;
    refused(&format!("{host}?cert={authority}"), ErrorKind::InvalidConfig, "go together").await;
    // A server without TLS waits for the rest of what it takes for a command.
    let plain = plain.url().replace("redis", "rediss");
    refused(&format!("{plain}?op_timeout=1s"), ErrorKind::Unavailable, "did not answer").await;
}
