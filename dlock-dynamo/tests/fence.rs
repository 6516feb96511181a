//! The fence at an item of the user's own table, on a real server.
#![allow(clippy::unwrap_used)]

mod support;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use dlock_core::{FencingToken, Registry};
use dlock_dynamo::fence::Fence;
use dlock_fixtures::DynamoServer;
use support::{raw, text};

/// Writes under a fence; whether the write was let through.
async fn write(client: &Client, fence: &Fence, content: &str) -> bool {
    let assignments = match fence.assignment() {
        Some(assignment) => format!("SET content = :content, {assignment}"),
        None => "SET content = :content".to_owned(),
    };
    let mut update = client.update_item().table_name("locks").key("lock_key", text("\u{1}invoice"));
    update = update.update_expression(assignments).condition_expression(fence.condition());
    update = update.expression_attribute_values(":content", text(content));
    for (name, attribute) in fence.names() {
        update = update.expression_attribute_names(name, attribute);
    }
    for (name, number) in fence.numbers() {
        update = update.expression_attribute_values(name, AttributeValue::N(number));
    }
    match update.send().await {
        Ok(_) => true,
        Err(error) => {
            let error = error.into_service_error();
            assert!(error.is_conditional_check_failed_exception(), "{error:?}");
            false
        }
    }
}

async fn content(client: &Client) -> String {
    let found = client.get_item().table_name("locks").key("lock_key", text("\u{1}invoice")).send().await.unwrap();
    found.item.unwrap()["content"].as_s().unwrap().clone()
}

#[tokio::test]
async fn the_write_of_a_stale_holder_is_refused() {
    let server = DynamoServer::start();
    let url = format!("{}&create=true", server.url());
    let locks = Registry::new().with(dlock_dynamo::driver()).connect(&url).await.unwrap();
    let client = raw(&server.endpoint());

    let stale = locks.lock("invoice").acquire().await.unwrap();
    let old = Fence::exclusive("fence", stale.token());
    assert!(write(&client, &old, "the first").await);
    assert!(write(&client, &old, "the first, again").await);
    // Somebody takes the lock away, and its holder does not know yet.
    assert!(locks.break_lock("invoice", &stale.holder()).await.unwrap());
    let next = locks.lock("invoice").acquire().await.unwrap();
    let new = Fence::exclusive("fence", next.token());
    assert!(write(&client, &new, "the second").await);
    assert!(!write(&client, &old, "stale").await);
    assert_eq!(content(&client).await, "the second");
    next.release().await.unwrap();

    // A shared holder after both writes, and leaves the fence where it is; one from before does not.
    let shared = locks.lock("invoice").shared().acquire().await.unwrap();
    assert!(write(&client, &Fence::shared("fence", shared.fence_floor().unwrap()), "shared").await);
    assert!(!write(&client, &Fence::shared("fence", FencingToken(stale.token().0)), "stale").await);
    assert!(write(&client, &new, "the second, again").await);
    assert_eq!(content(&client).await, "the second, again");
    drop(shared);
}
