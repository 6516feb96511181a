//! The table: what it looks like, how it is made, and what must be allowed.

use crate::config::Settings;
use crate::exchange::{Exchange, Reply};
use crate::item::KEY;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::get_item::{GetItemError, GetItemOutput};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use dlock_core::{Error, ErrorKind, Moment, Result, backoff};
use std::time::Duration;

/// The rights that taking, keeping and giving up locks needs, on the table. Beyond them `dynamodb:Scan` for listing,
/// `dynamodb:DeleteItem` for removing idle locks, and `dynamodb:CreateTable` for `create=true`.
pub const RIGHTS: &[&str] = &["dynamodb:GetItem", "dynamodb:PutItem"];

/// A key that no lock has: control characters are none of a key's.
const NO_LOCK: &str = "\u{1}";
/// How long a table that was made may take to become active.
const ACTIVE: Duration = Duration::from_secs(60);

/// The command that makes the table.
pub fn table_command(table: &str) -> String {
    format!(
        "aws dynamodb create-table --table-name {table} --billing-mode PAY_PER_REQUEST \
         --attribute-definitions AttributeName={KEY},AttributeType=S --key-schema AttributeName={KEY},KeyType=HASH"
    )
}

/// What to do about a table that is missing or another.
pub(crate) fn advice(table: &str) -> String {
    format!(
        "it is {table:?} with the string {KEY} as partition key and no sort key; add create=true to the URL, or run: {}; \
         locks then need {}",
        table_command(table),
        RIGHTS.join(", ")
    )
}

/// Sees to it that the table is there and can be read, and that replies tell the time.
pub(crate) async fn prepare(client: &Client, exchange: &Exchange, settings: &Settings) -> Result<bool> {
    let (now, advice) = (exchange.clock.now(), advice(&settings.table));
    let mut found = look(client, exchange, settings, now + settings.op_timeout).await?;
    let make = settings.create && is_missing(&found);
    if make {
        create(client, exchange, settings, &advice).await?;
        let (end, mut pauses) = (exchange.clock.now() + ACTIVE, backoff());
        while is_missing(&found) && exchange.clock.now() < end {
            exchange.clock.sleep(pauses.next().unwrap_or_default()).await;
            found = look(client, exchange, settings, exchange.clock.now() + settings.op_timeout).await?;
        }
    }
    let (_, reading) = found.into_answer(&advice)?;
    if reading.is_none() {
        let message = "the replies have no Date header, by which leases end; take out the proxy that removes it";
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    Ok(make)
}

/// Reads a key that no lock has: that needs no further right, and fails as long as the table is not active.
async fn look(
    client: &Client,
    exchange: &Exchange,
    settings: &Settings,
    give_up: Moment,
) -> Result<Reply<GetItemOutput, GetItemError>> {
    let get = client.get_item().table_name(&settings.table).key(KEY, AttributeValue::S(NO_LOCK.to_owned()));
    exchange.ask(give_up, |stamps| get.clone().consistent_read(true).customize().interceptor(stamps).send()).await
}

fn is_missing(found: &Reply<GetItemOutput, GetItemError>) -> bool {
    found.code() == "ResourceNotFoundException"
}

async fn create(client: &Client, exchange: &Exchange, settings: &Settings, advice: &str) -> Result<()> {
    let wrong =
        |error: BuildError| Error::new(ErrorKind::Unexpected, "the table can't be described").with_source(error);
    let attribute = AttributeDefinition::builder().attribute_name(KEY).attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder().attribute_name(KEY).key_type(KeyType::Hash);
    let create = client
        .create_table()
        .table_name(&settings.table)
        .attribute_definitions(attribute.build().map_err(wrong)?)
        .key_schema(key.build().map_err(wrong)?)
        .billing_mode(BillingMode::PayPerRequest)
        .deletion_protection_enabled(settings.deletion_protection);
    let give_up = exchange.clock.now() + settings.op_timeout;
    let reply = exchange.ask(give_up, |stamps| create.clone().customize().interceptor(stamps).send()).await?;
    match reply.code() {
        // Another client was faster.
        "ResourceInUseException" => Ok(()),
        "AccessDeniedException" => Err(Error::new(
            ErrorKind::Unauthorized,
            format!(
                "these credentials may not make the table (dynamodb:CreateTable); let somebody who may run: {}",
                table_command(&settings.table)
            ),
        )),
        _ => reply.into_answer(advice).map(drop),
    }
}
