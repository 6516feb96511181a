//! [`Connection`]: one connection a client, and the pushes that come on it.

use crate::batch::{Ask, Batches};
use crate::error::{from_redis, is_unknown_script};
use crate::scripts::Call;
use dlock_core::{Clock, Effect, Error, ErrorKind, FencingToken, HolderId, Moment, Result};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, FromRedisValue, PushInfo, PushKind, RedisError, RedisResult, Value};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// One connection a client, made anew when it breaks, and the pushes that come on it.
pub(crate) struct Connection {
    client: Client,
    clock: Clock,
    runtime: Handle,
    op_timeout: Duration,
    channel: String,
    current: Arc<Mutex<Current>>,
    waiters: Waiters,
    batches: Arc<Batches>,
}

/// The connection that is used now, once there is one, and how many came before it.
#[derive(Default)]
struct Current {
    manager: Option<ConnectionManager>,
    number: u64,
    closed: bool,
}

/// A grant as the push tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// When the request was sent that kept the place to which it was granted.
    pub(crate) sent: Moment,
    pub(crate) token: FencingToken,
    pub(crate) floor: FencingToken,
}

#[derive(Clone, Debug, Default)]
struct Waiters(Arc<Mutex<HashMap<HolderId, Arc<Slot>>>>);

#[derive(Debug, Default)]
struct Slot {
    wake: Notify,
    grant: Mutex<Option<Grant>>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Connects, checks the credentials and listens for pushes.
    pub(crate) async fn open(client: Client, clock: Clock, op_timeout: Duration) -> Result<Self> {
        let channel = format!("dlock:{:016x}", rand::random::<u64>());
        let this = Self {
            client,
            batches: Arc::new(Batches::new(clock.clone(), channel.clone())),
            clock,
            runtime: Handle::current(),
            op_timeout,
            channel,
            current: Arc::default(),
            waiters: Waiters::default(),
        };
        let give_up = this.clock.now() + op_timeout;
        let (manager, _) = this.manager()?;
        let listening = async {
            let mut manager = manager;
            manager.subscribe(&this.channel).await?;
            // Without the right to tell others of a grant, each of them would wait for long, and nobody would know why.
            redis::cmd("PUBLISH").arg(&this.channel).arg("").exec_async(&mut manager).await
        };
        this.clock.timeout_at(give_up, listening).await.unwrap_or_else(|| Err(no_answer())).map_err(from_redis)?;
        Ok(this)
    }

    /// The channel of this client's pushes.
    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The connection, and its number.
    fn manager(&self) -> Result<(ConnectionManager, u64)> {
        let mut current = locked(&self.current);
        if current.closed {
            return Err(Error::new(ErrorKind::Closed, "the client was closed").with_effect(Effect::NotApplied));
        }
        if let Some(manager) = &current.manager {
            return Ok((manager.clone(), current.number));
        }
        let waiters = self.waiters.clone();
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(self.op_timeout))
            // Each call has a limit of its own.
            .set_response_timeout(None)
            .set_number_of_retries(0)
            .set_push_sender(move |push| waiters.pushed(push))
            .set_automatic_resubscription();
        let made = ConnectionManager::new_lazy_with_config(self.client.clone(), config).map_err(from_redis)?;
        current.manager = Some(made.clone());
        Ok((made, current.number))
    }

    /// Runs a script, which the server is given if it does not know it. Answers by `give_up`.
    pub(crate) async fn run<T: FromRedisValue>(&self, call: &Call<'_>, give_up: Moment) -> Result<T> {
        let (mut manager, number) = self.manager()?;
        let asked = async {
            match call.command.query_async(&mut manager).await {
                Err(error) if is_unknown_script(&error) => {
                    call.script.load_async(&mut manager).await?;
                    call.command.query_async(&mut manager).await
                }
                answer => answer,
            }
        };
        let answer = self.clock.timeout_at(give_up, asked).await;
        self.answered(number, answer)
    }

    /// Asks the script for the usual cases. `None` if this is not one: nothing has changed by it. Answers by `give_up`.
    pub(crate) async fn usual(&self, ask: Ask, give_up: Moment) -> Result<Option<Value>> {
        let (manager, number) = self.manager()?;
        let answer = self.clock.timeout_at(give_up, self.batches.ask(manager, ask, give_up)).await;
        let reply = self.answered(number, answer)?;
        Ok((reply != Value::Nil).then_some(reply))
    }

    /// The answer of the connection with this number, if there was one in time.
    fn answered<T>(&self, number: u64, answer: Option<RedisResult<T>>) -> Result<T> {
        let answer = answer.unwrap_or_else(|| Err(no_answer()));
        if answer.as_ref().is_err_and(RedisError::is_timeout) {
            self.begin_anew(number);
        }
        answer.map_err(from_redis)
    }

    /// Leaves a connection on which nothing comes any more, without an error, to its fate. Of all the calls that wait on it
    /// the first does so. The new one listens as soon as it can: nothing else would make it.
    fn begin_anew(&self, silent: u64) {
        {
            let mut current = locked(&self.current);
            if current.number != silent {
                return;
            }
            (current.manager, current.number) = (None, silent + 1);
        }
        // The connection lives on the client's runtime, not on that of who waited.
        let _runtime = self.runtime.enter();
        let Ok((mut manager, number)) = self.manager() else { return };
        let (channel, limit, clock) = (self.channel.clone(), self.op_timeout, self.clock.clone());
        let (waiters, current) = (self.waiters.clone(), self.current.clone());
        tokio::spawn(async move {
            let mut pauses = dlock_core::backoff();
            while locked(&current).number == number {
                let listening = manager.subscribe(&channel);
                if clock.timeout_at(clock.now() + limit, listening).await.is_some_and(|done| done.is_ok()) {
                    return waiters.wake_all();
                }
                clock.sleep(pauses.next().unwrap_or_default()).await;
            }
        });
    }

    /// Ends the connection.
    pub(crate) fn close(&self) {
        let mut current = locked(&self.current);
        *current = Current { manager: None, number: current.number + 1, closed: true };
    }

    /// From here on no grant to this waiter is missed.
    pub(crate) fn watch(&self, id: &HolderId) -> Watch {
        let slot = locked(&self.waiters.0).entry(id.clone()).or_default().clone();
        Watch { waiters: self.waiters.clone(), id: id.clone(), slot }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

pub(crate) fn no_answer() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time").into()
}

impl Waiters {
    fn pushed(&self, push: PushInfo) -> Result<(), std::convert::Infallible> {
        match (push.kind, push.data.as_slice()) {
            (PushKind::Message, [_, message]) => self.granted(message),
            // The connection broke or was made anew: what was pushed meanwhile is lost, so all ask (rule E5). Those who
            // ask also see to it that it is made anew: by itself the client tries that once.
            (PushKind::Subscribe | PushKind::Disconnection, _) => self.wake_all(),
            _ => {}
        }
        Ok(())
    }

    fn granted(&self, message: &Value) {
        let Ok(text) = String::from_redis_value_ref(message) else { return };
        let Some((id, numbers)) = text.split_once(' ') else { return };
        let numbers: Result<Vec<u64>, _> = numbers.split(' ').map(str::parse).collect();
        let Ok(&[sent, token, floor]) = numbers.as_deref() else { return };
        let slot = locked(&self.0).get(&HolderId::from_store(id)).cloned();
        if let Some(slot) = slot {
            let (sent, token, floor) = (Moment::from_nanos(sent), FencingToken(token), FencingToken(floor));
            *locked(&slot.grant) = Some(Grant { sent, token, floor });
            slot.wake.notify_one();
        }
    }

    fn wake_all(&self) {
        for slot in locked(&self.0).values() {
            slot.wake.notify_one();
        }
    }
}

/// A waiter that listens, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    waiters: Waiters,
    id: HolderId,
    slot: Arc<Slot>,
}

impl Watch {
    /// Resolves when there is news for the waiter: a grant, or a reason to ask. Cancel-safe.
    pub(crate) async fn news(&self) -> Option<Grant> {
        self.slot.wake.notified().await;
        locked(&self.slot.grant).take()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        locked(&self.waiters.0).remove(&self.id);
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// The error for a reply that no script of ours gives.
pub(crate) fn not_understood(what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the reply has no {what}; is this a Redis, and are the lock's keys its own?"),
    )
    .with_effect(Effect::Unknown)
}
