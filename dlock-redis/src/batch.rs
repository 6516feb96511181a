//! [`Batches`]: what many tasks ask for at the same time goes to the server as one script.

use dlock_core::{Clock, HolderId, Moment};
use futures_util::future::join_all;
use redis::aio::ConnectionManager;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How many calls one script serves at most: meanwhile, for some 300 µs, the server does nothing else.
const MOST: usize = 64;

/// Calls of the script for the usual cases.
///
/// A call that finds none on its way goes at once and alone. One that comes while others are on their way goes together with
/// all that the runtime runs before it gets round to sending them; it waits for no reply.
pub(crate) struct Batches {
    script: Script,
    clock: Clock,
    /// Of the client: that of a caller may be driven no more, or end (rule R7).
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    /// Scripts on their way.
    flying: usize,
    /// The keys are not all in one place, as in a cluster: each call goes alone.
    apart: bool,
}

/// Where a reply comes.
type Told = oneshot::Receiver<RedisResult<Value>>;

/// What is asked of a lock.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) lock: String,
    pub(crate) id: HolderId,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Release,
    Acquire {
        ttl: u64,
        label: String,
        /// As the script has it.
        rest: String,
    },
}

struct Waiting {
    ask: Ask,
    manager: ConnectionManager,
    give_up: Moment,
    reply: oneshot::Sender<RedisResult<Value>>,
}

impl Batches {
    /// Must be called within the client's runtime.
    pub(crate) fn new(clock: Clock) -> Self {
        let script = Script::new(include_str!("scripts/usual.lua"));
        Self { script, clock, runtime: Handle::current(), state: Mutex::default() }
    }

    /// What the script replies, which is nil if this is not a usual case: nothing has changed by it then.
    ///
    /// # Cancel safety
    /// Dropped, it leaves unknown whether the server does it.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        manager: ConnectionManager,
        ask: Ask,
        give_up: Moment,
    ) -> RedisResult<Value> {
        match self.join(manager, ask, give_up) {
            Ok((told, is_first)) => {
                if is_first {
                    self.runtime.spawn(Boarding(Some(self.clone())).fly());
                }
                told.await.unwrap_or_else(|_| Err(ended()))
            }
            Err((manager, ask)) => {
                let _flight = Flight(self);
                self.send(manager, &[&ask]).await.map(|mut replies| replies.pop().unwrap_or(Value::Nil))
            }
        }
    }

    /// Where its reply comes, and whether it is the first of those who wait to go; or it goes alone, and counts as on its way.
    fn join(
        &self,
        manager: ConnectionManager,
        ask: Ask,
        give_up: Moment,
    ) -> Result<(Told, bool), (ConnectionManager, Ask)> {
        let mut state = self.state();
        if state.apart || state.flying == 0 && state.waiting.is_empty() {
            state.flying += 1;
            return Err((manager, ask));
        }
        let (reply, told) = oneshot::channel();
        state.waiting.push(Waiting { ask, manager, give_up, reply });
        Ok((told, state.waiting.len() == 1))
    }

    /// Sends the calls, releases first, as one. Replies one for each.
    async fn send(&self, mut manager: ConnectionManager, asks: &[&Ask]) -> RedisResult<Vec<Value>> {
        let command = self.command(asks);
        let mut reply = command.query_async(&mut manager).await;
        if let Err(error) = &reply
            && error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
        {
            self.script.load_async(&mut manager).await?;
            // Of many some may have given up, for whom nothing must be sent again (rule R3).
            if asks.len() > 1 {
                return Ok(vec![Value::Nil; asks.len()]);
            }
            reply = command.query_async(&mut manager).await;
        }
        match reply {
            // Refused as a whole, perhaps for one of them: their own scripts tell each what is the matter with it.
            Err(error) if asks.len() > 1 && crate::error::is_refused(&error) => {
                self.state().apart |= error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot);
                Ok(vec![Value::Nil; asks.len()])
            }
            Ok(Value::Array(replies)) if replies.len() == asks.len() => Ok(replies),
            Ok(_) => Err((ErrorKind::UnexpectedReturnType, "not one reply for each call").into()),
            Err(error) => Err(error),
        }
    }

    fn command(&self, asks: &[&Ask]) -> Cmd {
        /// Room for an id, a label and numbers.
        const ROOM: usize = 256;
        let size = asks.iter().map(|ask| ask.lock.len() + ROOM).sum();
        let mut command = Cmd::with_capacity(4 + 5 * asks.len(), size);
        command.arg("EVALSHA").arg(self.script.get_hash()).arg(asks.len());
        for ask in asks {
            command.arg(&ask.lock);
        }
        command.arg(asks.iter().filter(|ask| ask.is_release()).count());
        for ask in asks {
            command.arg(ask.id.as_str());
            if let What::Acquire { ttl, label, rest } = &ask.what {
                command.arg(*ttl).arg(label).arg(rest);
            }
        }
        command
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ask {
    fn is_release(&self) -> bool {
        matches!(self.what, What::Release)
    }
}

/// Who is to send those who wait. Dropped, as by a runtime that ends, it sends none.
struct Boarding(Option<Arc<Batches>>);

impl Boarding {
    async fn fly(mut self) {
        behind_others().await;
        let Some(batches) = self.0.take() else { return };
        let mut waiting = {
            let mut state = batches.state();
            state.flying += 1;
            std::mem::take(&mut state.waiting)
        };
        let _flight = Flight(&batches);
        waiting.retain(|one| !one.reply.is_closed());
        // The connection of who came last is the newest.
        let Some(manager) = waiting.last().map(|one| one.manager.clone()) else { return };
        waiting.sort_by_key(|one| !one.ask.is_release());
        let mut flights = Vec::with_capacity(1);
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(MOST));
            flights.push(together(&batches, manager.clone(), std::mem::replace(&mut waiting, rest)));
        }
        join_all(flights).await;
    }
}

impl Drop for Boarding {
    fn drop(&mut self) {
        let Some(batches) = &self.0 else { return };
        let waiting = std::mem::take(&mut batches.state().waiting);
        for one in waiting {
            let _ = one.reply.send(Ok(Value::Nil));
        }
    }
}

/// Goes to the back of the queue of tasks that are ready to run: they may want to come along. Unlike
/// [`tokio::task::yield_now`] it leaves no waker to this worker alone, which may be long at another task.
async fn behind_others() {
    let mut was_here = false;
    poll_fn(|context| {
        if std::mem::replace(&mut was_here, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Sends these calls as one, and tells each its reply.
async fn together(batches: &Batches, manager: ConnectionManager, mut calls: Vec<Waiting>) {
    let asks: Vec<&Ask> = calls.iter().map(|one| &one.ask).collect();
    let give_up = calls.iter().map(|one| one.give_up).max().unwrap_or(Moment::MAX);
    match batches.clock.timeout_at(give_up, batches.send(manager, &asks)).await {
        Some(Ok(replies)) => {
            for (one, reply) in calls.into_iter().zip(replies) {
                let _ = one.reply.send(Ok(reply));
            }
        }
        Some(Err(error)) => {
            for one in calls {
                let _ = one.reply.send(Err(error.clone()));
            }
        }
        // Each sees by itself that there is no answer in time, and then does what is to be done about it.
        None => {
            for one in &mut calls {
                one.reply.closed().await;
            }
        }
    }
}

/// A script on its way.
struct Flight<'a>(&'a Batches);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.state().flying -= 1;
    }
}

fn ended() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "its runtime ended, and the call with it").into()
}
