//! [`Batches`]: what many tasks ask for at the same time goes to the server as one script.

use crate::connection::{locked, no_answer};
use crate::error::{is_refused, is_unknown_script};
use dlock_core::{Clock, HolderId, Moment};
use futures_util::future::{Either, join_all};
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
    /// Where grants are told.
    channel: String,
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
    /// On which terms to acquire it, and since when that was asked; `None` to release it.
    pub(crate) acquire: Option<(Terms, Moment)>,
}

/// What several acquisitions may have in common. Times are milliseconds.
#[derive(PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) ttl: u64,
    pub(crate) patience: u64,
    pub(crate) if_held: IfHeld,
    pub(crate) label: String,
}

/// What is wanted of a lock that another one holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfHeld {
    Answer,
    Queue,
    /// To keep the place in the queue: no usual case.
    KeepPlace,
}

impl IfHeld {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            IfHeld::Answer => "once",
            IfHeld::Queue => "queue",
            IfHeld::KeepPlace => "again",
        }
    }
}

struct Waiting {
    ask: Ask,
    manager: ConnectionManager,
    give_up: Moment,
    reply: oneshot::Sender<RedisResult<Value>>,
}

impl Batches {
    /// Must be called within the client's runtime.
    pub(crate) fn new(clock: Clock, channel: String) -> Self {
        let script = Script::new(include_str!("scripts/usual.lua"));
        Self { script, clock, channel, runtime: Handle::current(), state: Mutex::default() }
    }

    /// What the script replies, which is nil if this is not a usual case: nothing has changed by it then. Begun by this call, not
    /// by the first poll, so that the future, of which each task has one, is small.
    ///
    /// # Cancel safety
    /// Dropped, it leaves unknown whether the server does it.
    pub(crate) fn ask(
        self: &Arc<Self>,
        manager: ConnectionManager,
        ask: Ask,
        give_up: Moment,
    ) -> impl Future<Output = RedisResult<Value>> {
        if let Some(flight) = self.alone() {
            let command = self.command(&[&ask]);
            return Either::Left(async move {
                let _flight = flight;
                Ok(self.send(manager, command, 1, true).await?.into_iter().next().unwrap_or(Value::Nil))
            });
        }
        let (reply, told) = oneshot::channel();
        if self.line_up(Waiting { ask, manager, give_up, reply }) {
            self.runtime.spawn(Boarding(Some(self.clone())).fly());
        }
        Either::Right(async move { told.await.unwrap_or_else(|_| Err(ended())) })
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

    /// Sends so many calls as one. Replies one for each. Is it the caller itself that sends it, who has not given up then?
    async fn send(
        &self,
        mut manager: ConnectionManager,
        command: Cmd,
        calls: usize,
        by_caller: bool,
    ) -> RedisResult<Vec<Value>> {
        let mut reply = command.query_async(&mut manager).await;
        if reply.as_ref().is_err_and(is_unknown_script) {
            Box::pin(self.script.load_async(&mut manager)).await?;
            // For who may have given up nothing must be sent again (rule R3).
            if !by_caller {
                return Ok(vec![Value::Nil; calls]);
            }
            reply = command.query_async(&mut manager).await;
        }
        match reply {
            // Refused as a whole, perhaps for one of them: their own scripts tell each what is the matter with it.
            Err(error) if calls > 1 && is_refused(&error) => {
                locked(&self.state).apart |= error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot);
                Ok(vec![Value::Nil; calls])
            }
            Ok(Value::Array(replies)) if replies.len() == calls => Ok(replies),
            Ok(_) => Err((ErrorKind::UnexpectedReturnType, "not one reply for each call").into()),
            Err(error) => Err(error),
        }
    }

    /// One call for all, of which releases come first.
    fn command(&self, asks: &[&Ask]) -> Cmd {
        /// Room for an id, and for what is told once.
        const ROOM: usize = 48;
        let size = 512 + asks.iter().map(|ask| ask.lock.len() + ROOM).sum::<usize>();
        let mut command = Cmd::with_capacity(16 + 2 * asks.len(), size);
        command.arg("EVALSHA").arg(self.script.get_hash()).arg(asks.len());
        for ask in asks {
            command.arg(&ask.lock);
        }
        let (releases, acquisitions) = asks.split_at(asks.partition_point(|ask| ask.is_release()));
        command.arg(releases.len());
        for ask in releases {
            command.arg(ask.id.as_str());
        }
        for alike in acquisitions.chunk_by(|one, other| one.terms() == other.terms()) {
            // The earliest moment for all: each believes in its place a little less long than it could.
            let earliest = alike.iter().filter_map(|ask| ask.acquire.as_ref()).min_by_key(|(_, sent)| *sent);
            // Only releases have no terms.
            let Some((terms, sent)) = earliest else { continue };
            command.arg(alike.len()).arg(terms.ttl).arg(terms.patience).arg(terms.if_held.as_str());
            command.arg(sent.as_nanos()).arg(&self.channel).arg(&terms.label);
            for ask in alike {
                command.arg(ask.id.as_str());
            }
        }
        command
    }
}

impl Ask {
    fn is_release(&self) -> bool {
        self.acquire.is_none()
    }

    fn terms(&self) -> Option<&Terms> {
        self.acquire.as_ref().map(|(terms, _)| terms)
    }
}

/// Who is to send those who wait. Dropped, as by a runtime that ends, it sends none: each is for its own script.
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
    let command = batches.command(&asks);
    let answer = batches.clock.timeout_at(give_up, batches.send(manager, command, calls.len(), false)).await;
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
