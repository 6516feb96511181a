//! [`DynamoStore`].

use crate::client::client;
use crate::config::{JITTER, Settings};
use crate::error::no_answer;
use crate::exchange::{Corrected, Exchange};
use crate::item::{Item, KEY, RECORD, VERSION, from_item, key_of, to_item, version_value};
use crate::reads::Reads;
use crate::table::{advice, prepare};
use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use dlock_core::record::{Change, RecordBackend, RecordStore, Snapshot, StoreReading, Swap};
use dlock_core::{Capabilities, Clock, HolderId, LockKey, Moment, Result, StoreUrl};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::Duration;

/// Locks in DynamoDB.
pub type DynamoBackend = RecordBackend<DynamoStore>;

/// Records in a table of DynamoDB. Clones share the connections.
#[derive(Clone, Debug)]
pub struct DynamoStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    exchange: Exchange,
    settings: Settings,
    reads: Reads,
    ticks: Ticks,
    advice: String,
}

/// When the waiters of a client look: as far apart as the URL says or a little more, each client at moments of its own.
#[derive(Debug)]
struct Ticks {
    first: Moment,
    apart: Duration,
}

impl Ticks {
    fn new(now: Moment, poll: Duration) -> Self {
        let apart = poll.mul_f64(rand::random_range(1.0..JITTER));
        Self { first: now + apart.mul_f64(rand::random()), apart }
    }

    /// The first tick after `now`.
    fn after(&self, now: Moment) -> Moment {
        if now < self.first {
            return self.first;
        }
        let apart = self.apart.as_nanos().max(1);
        let gone = now.since(self.first).as_nanos() / apart + 1;
        self.first + Duration::from_nanos(u64::try_from(gone * apart).unwrap_or(u64::MAX))
    }
}

impl DynamoStore {
    /// Connects to the table of a `dynamodb://` URL.
    ///
    /// # Cancel safety
    /// Cancel-safe; a table that is being made is made all the same.
    ///
    /// # Errors
    /// When the URL is wrong, the service does not answer within `op_timeout`, the credentials do not do, or the table is
    /// missing. With `create=true` it waits up to a minute for the table that it made.
    pub async fn connect(url: &StoreUrl) -> Result<Self> {
        let (settings, time) = (Settings::of(url)?, Corrected::default());
        let client = client(url, &settings, &time).await?;
        let exchange = Exchange { clock: Clock::system(), time };
        prepare(&client, &exchange, &settings).await?;
        let (advice, ticks) = (advice(&settings.table), Ticks::new(exchange.clock.now(), settings.poll));
        let reads = Reads::default();
        Ok(Self(Arc::new(Shared { client, exchange, settings, reads, ticks, advice })))
    }

    /// Makes the table of a `dynamodb://` URL if it is missing, and says so: what `dlock init` does.
    ///
    /// # Cancel safety
    /// Cancel-safe; a table that is being made is made all the same.
    ///
    /// # Errors
    /// As [`DynamoStore::connect`] with `create=true`.
    pub async fn init(url: &StoreUrl) -> Result<String> {
        let (settings, time) = (Settings { create: true, ..Settings::of(url)? }, Corrected::default());
        let client = client(url, &settings, &time).await?;
        let made = prepare(&client, &Exchange { clock: Clock::system(), time }, &settings).await?;
        let done = if made { "made" } else { "found" };
        Ok(format!("{done} the table {}; it is ready", settings.table))
    }

    fn clock_now(&self) -> Moment {
        self.0.exchange.clock.now()
    }

    async fn read_by(&self, key: &LockKey, give_up: Moment) -> Result<Snapshot<u64>> {
        let this = &*self.0;
        let get =
            this.client.get_item().table_name(&this.settings.table).key(KEY, key_value(key)).consistent_read(true);
        let read = async {
            let reply = this.exchange.ask(give_up, |stamps| get.clone().customize().interceptor(stamps).send()).await?;
            let (found, reading) = reply.into_answer(&this.advice)?;
            Ok((found.item, reading))
        };
        let shared = this.reads.share(&this.exchange.clock, key, read);
        let found = this.exchange.clock.timeout_at(give_up, shared).await;
        let (item, reading) = found.unwrap_or_else(|| Err(no_answer(false)))?;
        from_item(item.as_ref(), reading)
    }

    /// The state behind a refusal that brought no item along: there is none, or the server does not do that.
    async fn refused_without_item(&self, key: &LockKey, wrote: u64, give_up: Moment) -> Result<Swap<u64>> {
        // Where this fails, core reads.
        let Ok(present) = self.read_by(key, give_up).await else { return Ok(Swap::Conflict(None)) };
        Ok(refused(present, wrote))
    }
}

fn key_value(key: &LockKey) -> AttributeValue {
    AttributeValue::S(key.as_str().to_owned())
}

/// A refusal whose present item is what this very request wrote: it was delivered twice, and the first time it was carried
/// out.
fn refused(present: Snapshot<u64>, wrote: u64) -> Swap<u64> {
    if present.version == Some(wrote) {
        Swap::Done { version: Some(wrote), reading: present.reading }
    } else {
        Swap::Conflict(Some(present))
    }
}

#[async_trait]
impl RecordStore for DynamoStore {
    type Version = u64;

    fn name(&self) -> &'static str {
        "dynamodb"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.settings.capabilities()
    }

    fn clock(&self) -> Clock {
        self.0.exchange.clock.clone()
    }

    fn clock_margin(&self) -> Duration {
        self.0.settings.clock_margin
    }

    async fn read(&self, key: &LockKey, give_up: Moment) -> Result<Snapshot<u64>> {
        self.read_by(key, give_up.min(self.clock_now() + self.0.settings.op_timeout)).await
    }

    async fn swap(&self, key: &LockKey, change: Change<'_, u64>) -> Result<Swap<u64>> {
        let (this, version) = (&*self.0, rand::random::<u64>());
        let send = |stamps| {
            let put = this
                .client
                .put_item()
                .table_name(&this.settings.table)
                .set_item(Some(to_item(key, version, change.next)))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            let put = match change.expected {
                None => put.condition_expression("attribute_not_exists(#k)").expression_attribute_names("#k", KEY),
                Some(expected) => put
                    .condition_expression("#v = :v")
                    .expression_attribute_names("#v", VERSION)
                    .expression_attribute_values(":v", version_value(*expected)),
            };
            put.customize().interceptor(stamps).send()
        };
        let reply = this.exchange.ask(change.give_up, send).await?;
        if let Err(SdkError::ServiceError(refusal)) = &reply.answer
            && let PutItemError::ConditionalCheckFailedException(failed) = refusal.err()
        {
            return match failed.item() {
                Some(item) => Ok(refused(from_item(Some(item), reply.reading)?, version)),
                None => self.refused_without_item(key, version, change.give_up).await,
            };
        }
        let (_, reading) = reply.into_answer(&this.advice)?;
        Ok(Swap::Done { version: Some(version), reading })
    }

    /// Waiters look, all of one client at the same ticks, so that they share the read; never sooner, even where something
    /// ends sooner: requests cost money, and a lease of the shortest TTL still has three looks.
    async fn changed(&self, _: &LockKey, _: &HolderId, _since: Option<&u64>, _at_most: Duration) -> Result<()> {
        self.0.exchange.clock.sleep_until(self.0.ticks.after(self.clock_now())).await;
        Ok(())
    }

    fn scan(&self, prefix: &str) -> BoxStream<'static, Result<(LockKey, Snapshot<u64>)>> {
        let (this, prefix) = (self.clone(), prefix.to_owned());
        let pages = futures_util::stream::try_unfold(Some(None), move |next: Option<Option<Item>>| {
            let (this, prefix) = (this.clone(), prefix.clone());
            async move {
                let Some(start) = next else { return Ok::<_, dlock_core::Error>(None) };
                let (items, reading, last) = this.page(&prefix, start).await?;
                let found = items.into_iter().map(move |item| {
                    let key = key_of(&item)?;
                    let snapshot = from_item(Some(&item), reading);
                    snapshot.map_err(|error| error.during("list", Some(&key))).map(|snapshot| (key, snapshot))
                });
                Ok(Some((futures_util::stream::iter(found), last.map(Some))))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn purge(&self, key: &LockKey, expected: &u64) -> Result<bool> {
        let this = &*self.0;
        let give_up = self.clock_now() + this.settings.op_timeout;
        let delete = this
            .client
            .delete_item()
            .table_name(&this.settings.table)
            .key(KEY, key_value(key))
            .condition_expression("#v = :v")
            .expression_attribute_names("#v", VERSION)
            .expression_attribute_values(":v", version_value(*expected));
        let reply = this.exchange.ask(give_up, |stamps| delete.clone().customize().interceptor(stamps).send()).await?;
        if reply.code() == "ConditionalCheckFailedException" {
            return Ok(false);
        }
        reply.into_answer(&this.advice).map(|_| true)
    }
}

type Page = (Vec<Item>, Option<StoreReading>, Option<Item>);

impl DynamoStore {
    /// One page of a scan: up to a megabyte of the table is read for it, whatever it filters.
    async fn page(&self, prefix: &str, start: Option<Item>) -> Result<Page> {
        let this = &*self.0;
        let mut scan = this
            .client
            .scan()
            .table_name(&this.settings.table)
            .consistent_read(true)
            .set_exclusive_start_key(start)
            .projection_expression("#k, #v, #r")
            .expression_attribute_names("#k", KEY)
            .expression_attribute_names("#v", VERSION)
            .expression_attribute_names("#r", RECORD);
        if !prefix.is_empty() {
            let prefix = AttributeValue::S(prefix.to_owned());
            scan = scan.filter_expression("begins_with(#k, :p)").expression_attribute_values(":p", prefix);
        }
        let give_up = self.clock_now() + this.settings.op_timeout;
        let reply = this.exchange.ask(give_up, |stamps| scan.clone().customize().interceptor(stamps).send()).await?;
        let (page, reading) = reply.into_answer(&this.advice)?;
        Ok((page.items.unwrap_or_default(), reading, page.last_evaluated_key.filter(|last| !last.is_empty())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_come_after_and_no_further_apart_than_they_are() {
        let (start, poll) = (Moment::from_nanos(5_000_000_000), Duration::from_millis(100));
        let ticks = Ticks::new(start, poll);
        assert!(ticks.apart >= poll && ticks.apart <= poll.mul_f64(JITTER));
        let mut now = start;
        for _ in 0..50 {
            let tick = ticks.after(now);
            assert!(tick > now && tick.since(now) <= ticks.apart);
            now = tick;
        }
        assert!(now.since(ticks.first) == ticks.apart * 49, "each tick is the next one");
    }
}
