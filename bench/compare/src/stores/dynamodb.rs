//! DynamoDB: the raw client.

use crate::setup::Setup;
use crate::simple::contender;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use dlock_bench::{Contender, Result};
use std::time::{SystemTime, UNIX_EPOCH};

const TABLE: &str = "bench_raw";

pub(crate) fn fill(setup: &mut Setup) -> Result<()> {
    let endpoint =
        setup.parameter("endpoint").ok_or("name the endpoint: dynamodb://table?region=…&endpoint=http://…")?;
    setup.add_pairs("raw put + put", "one client; both puts conditional", || pairs(endpoint.clone()));
    Ok(())
}

fn client(endpoint: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "bench"))
        .endpoint_url(endpoint)
        .http_client(http)
        .build();
    Client::from_conf(config)
}

async fn make_table(client: &Client) -> Result<()> {
    let attribute =
        AttributeDefinition::builder().attribute_name("key").attribute_type(ScalarAttributeType::S).build()?;
    let key = KeySchemaElement::builder().attribute_name("key").key_type(KeyType::Hash).build()?;
    let table = client.create_table().table_name(TABLE).attribute_definitions(attribute).key_schema(key);
    match table.billing_mode(BillingMode::PayPerRequest).send().await.map_err(|error| error.into_service_error()) {
        Ok(_) | Err(CreateTableError::ResourceInUseException(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A conditional put to acquire, a conditional put to release: the item stays, as the token lives in it.
fn pairs(endpoint: String) -> impl Contender {
    contender(move || {
        let endpoint = endpoint.clone();
        async move {
            let client = client(&endpoint);
            make_table(&client).await?;
            Ok(move |key: String| {
                let client = client.clone();
                async move {
                    let id = uuid::Uuid::new_v4().simple().to_string();
                    let put = |holder: &str, until: u64| {
                        let text = |text: &str| AttributeValue::S(text.to_owned());
                        let put =
                            client.put_item().table_name(TABLE).item("key", text(&key)).item("holder", text(holder));
                        put.item("until", AttributeValue::N(until.to_string()))
                    };
                    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
                    put(&id, now + 30_000)
                        .condition_expression("attribute_not_exists(#k) OR #h = :none OR #u < :now")
                        .expression_attribute_names("#k", "key")
                        .expression_attribute_names("#h", "holder")
                        .expression_attribute_names("#u", "until")
                        .expression_attribute_values(":none", AttributeValue::S("-".to_owned()))
                        .expression_attribute_values(":now", AttributeValue::N(now.to_string()))
                        .send()
                        .await?;
                    let release = put("-", 0)
                        .condition_expression("#h = :me")
                        .expression_attribute_names("#h", "holder")
                        .expression_attribute_values(":me", AttributeValue::S(id));
                    Ok(async move {
                        release.send().await?;
                        Ok(())
                    })
                }
            })
        }
    })
}
