//! Which schemes this build knows.

use dlocks::ErrorKind;

#[tokio::test]
async fn every_url_connects_or_says_which_feature_it_needs() {
    for (url, feature, is_on) in [
        ("local:/no/such/folder/locks.db", "local", cfg!(feature = "local")),
        ("postgres://127.0.0.1:1/test?op_timeout=1s", "sql", cfg!(feature = "sql")),
        ("redis://127.0.0.1:1?op_timeout=1s", "redis", cfg!(feature = "redis")),
        ("rediss://127.0.0.1:1?op_timeout=1s", "redis-tls", cfg!(feature = "redis-tls")),
        ("etcd://127.0.0.1:1?op_timeout=1s", "etcd", cfg!(feature = "etcd")),
        ("zk://127.0.0.1:1?op_timeout=1s", "zk", cfg!(feature = "zk")),
        ("zks://127.0.0.1:1?op_timeout=1s", "zk-tls", cfg!(feature = "zk-tls")),
        ("dynamodb://locks?region=x&endpoint=http://127.0.0.1:1&op_timeout=1s", "dynamo", cfg!(feature = "dynamo")),
    ] {
        let error = dlocks::connect(url).await.expect_err("nothing is there");
        if is_on {
            assert_ne!(error.kind(), ErrorKind::Unsupported, "{error}");
        } else {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(&format!("the cargo feature {feature:?}")), "{error}");
        }
    }
    dlocks::connect("memory:").await.expect("always there");
}
