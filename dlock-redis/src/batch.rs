//! [`Batches`]: what many tasks ask for at the same time goes to the server as one script.

use crate::connection::{locked, no_answer};
use crate::error::{is_refused, is_unknown_script};
use dlock_core::{Clock, HolderId, Moment};
use futures_util::future::join_all;
use redis::aio::ConnectionManager;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How many calls one script serves at most: meanwhile, for some 300 µs, the server does nothing else.
const MOST: usize = 64;

/// Calls of the script for the usual cases.
///
/// A call that finds none on its way goes at once and alone. One that comes while others are on their way waits until the tasks
/// that are ready have run, and goes with what they ask; it waits for no reply.
pub(crate) struct Batches {
    script: Script,
    clock: Clock,
    /// Of the client: that of a caller may be driven no more, or end.
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

/// What is asked of a lock.
pub(crate) struct Ask {
    pub(crate) lock: String,
    pub(crate) id: HolderId,
    pub(crate) what: What,
}

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
        if let Some(_flight) = self.alone() {
            let replies = self.send(manager, &[&ask]).await?;
            return Ok(replies.into_iter().next().unwrap_or(Value::Nil));
        }
        let (reply, told) = oneshot::channel();
        if self.line_up(Waiting { ask, manager, give_up, reply }) {
            self.runtime.spawn(Boarding(Some(self.clone())).fly());
        }
        told.await.unwrap_or_else(|_| Err(ended()))
    }

    /// A flight for one call, if none is to wait for others.
    fn alone(&self) -> Option<Flight<'_>> {
        let mut state = locked(&self.state);
        (state.apart || state.flying == 0 && state.waiting.is_empty()).then(|| Flight::begin(self, &mut state))
    }

    /// Whether it is the first of those who wait.
    fn line_up(&self, one: Waiting) -> bool {
        let mut state = locked(&self.state);
        if state.waiting.first().is_some_and(|first| first.reply.is_closed()) {
            // Nobody has sent them, perhaps since the client's runtime is driven no more.
            state.waiting.retain(|one| !one.reply.is_closed());
        }
        state.waiting.push(one);
        state.waiting.len() == 1
    }

    /// Sends the calls, of which releases come first, as one. Replies one for each.
    async fn send(&self, mut manager: ConnectionManager, asks: &[&Ask]) -> RedisResult<Vec<Value>> {
        let command = self.command(asks);
        let mut reply = command.query_async(&mut manager).await;
        if reply.as_ref().is_err_and(is_unknown_script) {
            self.script.load_async(&mut manager).await?;
            // Of many some may have given up, for whom nothing must be sent again (rule R3).
            if asks.len() > 1 {
                return Ok(vec![Value::Nil; asks.len()]);
            }
            reply = command.query_async(&mut manager).await;
        }
        match reply {
            // Refused as a whole, perhaps for one of them: their own scripts tell each what is the matter with it.
            Err(error) if asks.len() > 1 && is_refused(&error) => {
                locked(&self.state).apart |= error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot);
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
        let (_flight, mut waiting) = {
            let mut state = locked(&batches.state);
            (Flight::begin(&batches, &mut state), std::mem::take(&mut state.waiting))
        };
        waiting.retain(|one| !one.reply.is_closed());
        // The connection of who came last is the newest, but for a moment in which that was changing.
        let Some(manager) = waiting.last().map(|one| one.manager.clone()) else { return };
        waiting.sort_by_key(|one| !one.ask.is_release());
        let mut flights = Vec::new();
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
        let waiting = std::mem::take(&mut locked(&batches.state).waiting);
        for one in waiting {
            let _ = one.reply.send(Ok(Value::Nil));
        }
    }
}

/// Goes to the back of the queue of tasks that are ready to run: they may want to come along. [`tokio::task::yield_now`] would be
/// woken by this worker alone, which may be long at another task.
async fn behind_others() {
    poll_fn(|context| {
        context.waker().wake_by_ref();
        Poll::Ready(())
    })
    .await;
    futures_util::pending!();
}

/// Sends these calls as one, and tells each its reply. While they wait for a connection, one of them may give up and still be
/// sent: the mark of its withdrawal then keeps it from holding, for a TTL (rule R3).
async fn together(batches: &Batches, manager: ConnectionManager, calls: Vec<Waiting>) {
    let asks: Vec<&Ask> = calls.iter().map(|one| &one.ask).collect();
    let give_up = calls.iter().map(|one| one.give_up).max().unwrap_or(Moment::MAX);
    let answer = batches.clock.timeout_at(give_up, batches.send(manager, &asks)).await;
    match answer.unwrap_or_else(|| Err(no_answer())) {
        Ok(replies) => {
            for (one, reply) in calls.into_iter().zip(replies) {
                let _ = one.reply.send(Ok(reply));
            }
        }
        Err(error) => {
            for one in calls {
                let _ = one.reply.send(Err(error.clone()));
            }
        }
    }
}

/// A script on its way.
struct Flight<'a>(&'a Batches);

impl<'a> Flight<'a> {
    fn begin(batches: &'a Batches, state: &mut State) -> Self {
        state.flying += 1;
        Self(batches)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        locked(&self.0.state).flying -= 1;
    }
}

fn ended() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "its runtime ended, and the call with it").into()
}
