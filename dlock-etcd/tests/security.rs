//! TLS and users: what is refused says why, and shows no secret.
#![allow(clippy::unwrap_used)]

use dlock_core::{Error, ErrorKind, Locks, Registry};
use dlock_fixtures::{EtcdOptions, EtcdServer};

async fn connect(url: &str) -> Result<Locks, Error> {
    Registry::new().with(dlock_etcd::driver()).connect(url).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_by_its_authority_alone() {
    let server = EtcdServer::start_with(&EtcdOptions { tls: true });
    let stranger = EtcdServer::start_with(&EtcdOptions { tls: true });
    let ca = |server: &EtcdServer| server.authority().display().to_string();
    let locks = connect(&format!("{}?ca={}", server.url(), ca(&server))).await.unwrap();
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
    let by_name = format!("{}?ca={}&domain=localhost", server.url(), ca(&server));
    connect(&by_name).await.unwrap().lock("k").acquire().await.unwrap().release().await.unwrap();
    for url in [
        format!("{}?ca={}", server.url(), ca(&stranger)),
        format!("{}?ca={}&domain=example.org", server.url(), ca(&server)),
    ] {
        let error = connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("certificate is not trusted"), "{}", error.chain());
    }
    let plain = server.url().replace("etcds", "etcd");
    assert_eq!(connect(&plain).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_needs_its_password_and_the_keys_under_the_prefix() {
    let server = EtcdServer::start();
    for words in [
        "user add root:hunter1",
        "user grant-role root root",
        "user add app:hunter2",
        "role add locks",
        "role grant-permission --prefix=true locks readwrite dlock/",
        "user grant-role app locks",
        "auth enable",
    ] {
        server.ctl(&words.split(' ').collect::<Vec<_>>());
    }
    let at = server.url().replace("etcd://", "");
    let locks = connect(&format!("etcd://app:hunter2@{at}")).await.unwrap();
    let guard = locks.lock("k").ttl(std::time::Duration::from_secs(1)).acquire().await.unwrap();
    let waiting = tokio::spawn(locks.lock("k").acquire());
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    // Keeping alive, sweeping, watching and revoking are within its rights.
    assert!(guard.is_valid());
    // A restarted server has forgotten the tokens that it gave to users.
    let server = tokio::task::spawn_blocking(move || {
        let mut server = server;
        server.restart();
        server
    });
    let _server = server.await.unwrap();
    guard.release().await.unwrap();
    let waiting = tokio::time::timeout(std::time::Duration::from_secs(10), waiting);
    let waiting = async { waiting.await.expect("the waiter is served") };
    waiting.await.unwrap().unwrap().release().await.unwrap();
    locks.close().await.unwrap();
    for url in [
        format!("etcd://app:wrong-hunter2@{at}"),
        format!("etcd://nobody:hunter2@{at}"),
        format!("etcd://{at}"),
        format!("etcd://app:hunter2@{at}/elsewhere"),
    ] {
        let error = connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", error.chain());
        let shown = format!("{error} {error:?} {}", error.chain());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let unknown = connect(&format!("etcd://{at}?cacert=x")).await.unwrap_err();
    assert!(unknown.to_string().contains("ca, cert, domain, key"), "{unknown}");
}
