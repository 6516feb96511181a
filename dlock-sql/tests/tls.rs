//! TLS and passwords: what is refused is told, and the secret is in no message.
#![allow(clippy::unwrap_used)]

mod common;

use common::connect;
use dlock_core::{Error, ErrorKind, Locks, Result};
use dlock_fixtures::{Certificate, MariaDbServer, PostgresServer};
use std::path::Path;

async fn refused(url: &str, kind: ErrorKind, words: &[&str]) {
    let error: Error = connect(url).await.unwrap_err();
    let told = format!("{}\n{error:?}", error.chain());
    assert_eq!(error.kind(), kind, "{told}");
    for word in words {
        assert!(told.to_lowercase().contains(word), "{word:?} is not in: {told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

async fn works(connected: Result<Locks>) {
    let locks = connected.unwrap_or_else(|error| panic!("{}", error.chain()));
    locks.lock("k").acquire().await.unwrap().release().await.unwrap();
}

async fn modes(url: &str, plain: &str, authority: &Path) {
    for tls in ["prefer", "require"] {
        works(connect(&format!("{url}?create=true&tls={tls}")).await).await;
    }
    let authority = authority.display();
    works(connect(&format!("{url}?tls=verify-full&tls_ca={authority}")).await).await;
    let unknown = format!("{url}?tls=verify-full&op_timeout=3s");
    refused(&unknown, ErrorKind::Unavailable, &["certificate", "unknownissuer", "tls_ca"]).await;
    // The certificate is for an address, not for this name.
    let other = url.replace("127.0.0.1", "localhost");
    refused(&format!("{other}?tls=verify-full&tls_ca={authority}"), ErrorKind::Unavailable, &["certificate", "name"])
        .await;
    refused(&format!("{url}?tls=verify-full&tls_ca=/no/such/file"), ErrorKind::InvalidConfig, &["/no/such/file"]).await;
    refused(&format!("{plain}?tls=require&op_timeout=3s"), ErrorKind::Unavailable, &["tls"]).await;
}

#[tokio::test]
async fn tls_does_what_its_mode_says_on_postgres() {
    let (server, plain) = (PostgresServer::start(), PostgresServer::start());
    let certificate = server.turn_tls_on().certificate;
    modes(&server.url(), &plain.url(), &certificate).await;
    // What goes without when the server wants it.
    std::fs::write(server.folder().join("data/pg_hba.conf"), "hostssl all all all trust\n").unwrap();
    let psql = "SELECT pg_reload_conf()";
    server.sql(psql);
    refused(&format!("{}?tls=disable", server.url()), ErrorKind::Unauthorized, &["pg_hba.conf"]).await;
}

#[tokio::test]
async fn tls_does_what_its_mode_says_on_mariadb() {
    let folder = tempfile::TempDir::new().unwrap();
    let certificate = Certificate::make(folder.path());
    let server = MariaDbServer::start_with_tls(&certificate);
    let plain = MariaDbServer::start_with(&["--skip-ssl"], None);
    modes(&server.url(), &plain.url(), &certificate.certificate).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_without_the_secret() {
    let (postgres, maria) = (PostgresServer::start(), MariaDbServer::start());
    drop(connect(&format!("{}?create=true", postgres.url())).await.unwrap());
    drop(connect(&format!("{}?create=true", maria.url())).await.unwrap());
    postgres.sql("CREATE ROLE worker LOGIN PASSWORD 'right'; GRANT SELECT, INSERT, UPDATE ON dlock_locks TO worker");
    let hba = "host all postgres all trust\nhost all all all scram-sha-256\n";
    std::fs::write(postgres.folder().join("data/pg_hba.conf"), hba).unwrap();
    postgres.sql("SELECT pg_reload_conf()");
    maria.sql("CREATE USER worker@'127.0.0.1' IDENTIFIED BY 'right'; GRANT ALL ON test.* TO worker@'127.0.0.1'");
    for url in [postgres.url().replace("postgres@", "worker:XXX@"), maria.url().replace("root@", "worker:XXX@")] {
        works(connect(&url.replace("XXX", "right")).await).await;
        refused(&url.replace("XXX", "hunter2"), ErrorKind::Unauthorized, &["user or its password"]).await;
        refused(&url.replace(":XXX", ""), ErrorKind::Unauthorized, &["user or its password"]).await;
    }
}
