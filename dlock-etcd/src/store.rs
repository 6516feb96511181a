//! [`Store`]: requests to etcd, each answered in time.

use crate::connection::{Asked, Connection, Made};
use crate::error::{from_etcd, is_lease_gone, is_token_old, is_too_long, no_answer};
use crate::names::Span;
use dlock_core::{Clock, Moment, Result};
use etcd_client::{
    Compare, CompareOp, DeleteOptions, Error as EtcdError, GetOptions, KeyValue, KvClient, LeaseTimeToLiveOptions, Txn,
    TxnOp, TxnOpResponse, WatchClient,
};
use std::sync::Arc;
use std::time::Duration;

/// Requests to etcd, each answered by the moment at which its caller gives up. Clones share the connection.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) connection: Arc<Connection>,
    pub(crate) clock: Clock,
    /// How long an answer may take.
    pub(crate) op_timeout: Duration,
}

/// What a transaction did.
pub(crate) struct Reply {
    /// The store's revision after it.
    pub(crate) revision: i64,
    /// What its reads found, in order.
    pub(crate) read: Vec<Vec<KeyValue>>,
    /// How many keys it deleted.
    pub(crate) deleted: i64,
}

/// The longest answer that is read, in bytes: far more than the longest queues.
const LONGEST: usize = 256 * 1024 * 1024;

impl Store {
    fn kv(&self) -> KvClient {
        self.connection.client().kv_client().max_decoding_message_size(LONGEST)
    }

    /// For the client of a connection that was made.
    pub(crate) fn watch_client(made: &Made) -> WatchClient {
        made.client.watch_client().max_decoding_message_size(LONGEST)
    }

    /// A question to the server that the callers of this give up after `op_timeout`, or a little before.
    pub(crate) fn asks(&self) -> Asked<'_> {
        self.connection.asks(self.op_timeout * 3 / 4)
    }

    async fn call<T>(
        &self,
        give_up: Moment,
        call: impl Future<Output = Result<T, EtcdError>>,
    ) -> Result<Result<T, EtcdError>> {
        let asked = self.asks();
        let answer = self.clock.timeout_at(give_up, call).await.ok_or_else(no_answer)?;
        asked.got_answer();
        if answer.as_ref().is_err_and(is_token_old) {
            // Who repeats the request does so with a token of now.
            let client = self.connection.client();
            let _ = self.clock.timeout_at(give_up, Box::pin(client.refresh_token())).await;
        }
        Ok(answer)
    }

    /// Runs a transaction. `None` if it was to put something under a lease that is no longer there.
    pub(crate) async fn txn(&self, txn: Txn, give_up: Moment) -> Result<Option<Reply>> {
        let mut kv = self.kv();
        let response = match self.call(give_up, kv.txn(txn)).await? {
            Ok(response) => response,
            Err(error) if is_lease_gone(&error) => return Ok(None),
            Err(error) => return Err(from_etcd(error)),
        };
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        let mut reply = Reply { revision, read: Vec::new(), deleted: 0 };
        for response in response.op_responses() {
            match response {
                TxnOpResponse::Get(mut get) => reply.read.push(get.take_kvs()),
                TxnOpResponse::Delete(delete) => reply.deleted += delete.deleted(),
                TxnOpResponse::Put(_) | TxnOpResponse::Txn(_) => {}
            }
        }
        Ok(Some(reply))
    }

    /// All keys of a span, and the revision at which they were so.
    pub(crate) async fn read(&self, span: &Span, options: GetOptions, give_up: Moment) -> Result<(i64, Vec<KeyValue>)> {
        let mut kv = self.kv();
        let options = options.with_range(span.end.clone());
        let mut response = self.call(give_up, kv.get(span.start.clone(), Some(options))).await?.map_err(from_etcd)?;
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok((revision, response.take_kvs()))
    }

    /// Deletes a key if it was created by that revision. `false` if that one is no longer there.
    pub(crate) async fn remove(&self, key: &[u8], created: i64, give_up: Moment) -> Result<bool> {
        let txn = Txn::new()
            .when([Compare::create_revision(key, CompareOp::Equal, created)])
            .and_then([TxnOp::delete(key, None)]);
        Ok(self.txn(txn, give_up).await?.is_some_and(|reply| reply.deleted > 0))
    }

    /// Deletes keys that nobody else can have made.
    pub(crate) async fn forget(&self, keys: &[Vec<u8>], give_up: Moment) -> Result<()> {
        // A transaction has at most 128 operations.
        for keys in keys.chunks(100) {
            let deletes: Vec<_> = keys.iter().map(|key| TxnOp::delete(key.as_slice(), None)).collect();
            self.txn(Txn::new().and_then(deletes), give_up).await?;
        }
        Ok(())
    }

    /// How long a lease still lasts and which keys it has; `None` if it is no longer there.
    pub(crate) async fn time_to_live(
        &self,
        lease: i64,
        keys: bool,
        give_up: Moment,
    ) -> Result<Option<(Duration, Vec<Vec<u8>>)>> {
        let options = LeaseTimeToLiveOptions::new();
        let options = if keys { options.with_keys() } else { options };
        let mut leases = self.connection.client().lease_client();
        let response = match self.call(give_up, leases.time_to_live(lease, Some(options))).await? {
            Ok(response) => response,
            Err(error) if is_lease_gone(&error) => return Ok(None),
            Err(error) if keys && is_too_long(&error) => {
                tracing::warn!(
                    "a lease has more keys than one answer holds: they are not looked through for what nobody wants"
                );
                return Ok(Some((Duration::ZERO, Vec::new())));
            }
            Err(error) => return Err(from_etcd(error)),
        };
        Ok(seconds(response.ttl()).map(|left| (left, response.keys().to_vec())))
    }

    /// A new lease: its id and TTL as granted.
    pub(crate) async fn grant(&self, ttl: Duration, give_up: Moment) -> Result<(i64, Duration)> {
        let wanted = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let mut leases = self.connection.client().lease_client();
        let response = self.call(give_up, leases.grant(wanted, None)).await?.map_err(from_etcd)?;
        Ok((response.id(), seconds(response.ttl()).unwrap_or_default()))
    }

    /// Ends a lease, and removes all its keys. One that is not there is ended already.
    pub(crate) async fn revoke(&self, lease: i64, give_up: Moment) -> Result<()> {
        let mut leases = self.connection.client().lease_client();
        match self.call(give_up, leases.revoke(lease)).await? {
            Err(error) if !is_lease_gone(&error) => Err(from_etcd(error)),
            _ => Ok(()),
        }
    }
}

/// A number of seconds as etcd gives it; it is negative for what is not there.
pub(crate) fn seconds(number: i64) -> Option<Duration> {
    u64::try_from(number).ok().map(Duration::from_secs)
}

/// What compares whether all keys of a span, or that it has none, are so.
pub(crate) fn created(span: &Span, op: CompareOp, revision: i64) -> Compare {
    Compare::create_revision(span.start.clone(), op, revision).with_range(span.end.clone())
}

/// What reads a span within a transaction.
pub(crate) fn get(span: &Span) -> TxnOp {
    TxnOp::get(span.start.clone(), Some(GetOptions::new().with_range(span.end.clone())))
}

/// What deletes a key within a transaction.
pub(crate) fn delete(key: &[u8]) -> TxnOp {
    TxnOp::delete(key, Some(DeleteOptions::new()))
}
