//! What the tests share: the items as they are.
#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used)]

pub(crate) mod proxy;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::AttributeValue;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

pub(crate) type Item = HashMap<String, AttributeValue>;

/// A client of the service itself.
pub(crate) fn raw(endpoint: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "secret", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(endpoint);
    Client::from_conf(config.build())
}

pub(crate) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// All items of the table whose key begins with `prefix`.
pub(crate) async fn items(client: &Client, prefix: &str) -> Vec<Item> {
    let scan = client.scan().table_name("locks").consistent_read(true).into_paginator().items().send();
    let all: Vec<Item> = scan.collect::<Result<_, _>>().await.unwrap();
    all.into_iter().filter(|item| item["lock_key"].as_s().unwrap().starts_with(prefix)).collect()
}

/// Whether somebody holds or waits.
pub(crate) fn is_in_use(item: &Item) -> bool {
    let record = item["record"].as_s().unwrap();
    record.contains("\"holders\"") || record.contains("\"queue\"")
}

/// Waits until the server's clock, which is this machine's, is past the last token of these items: before that, no
/// clean-up may remove them (rule F1).
pub(crate) async fn outlive(items: &[Item]) {
    let last = items.iter().filter_map(|item| item.get("token")?.as_n().ok()?.parse::<u64>().ok()).max();
    let past = SystemTime::UNIX_EPOCH + Duration::from_micros(last.unwrap_or_default());
    if let Ok(left) = past.duration_since(SystemTime::now()) {
        tokio::time::sleep(left).await;
    }
}

pub(crate) async fn remove(client: &Client, items: &[Item]) {
    for item in items {
        client.delete_item().table_name("locks").key("lock_key", item["lock_key"].clone()).send().await.unwrap();
    }
}
