//! The futures [`Acquire`] and [`TryAcquire`].

use crate::client::{Client, Terms};
use crate::guard::LockGuard;
use crate::in_place::{InPlace, named_future};
use crate::lock::Lock;
use crate::turns::{Turn, Turns};
use crate::{Attempt, Effect, Error, ErrorKind, LockInfo, Moment, Request, Result};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tracing::Instrument;

/// The future of [`Lock::acquire`].
#[must_use = "nothing is sent until it is awaited"]
pub struct Acquire {
    future: InPlace<Result<LockGuard>>,
    asked: Option<(Arc<Client>, Request)>,
}

named_future! {
    /// The future of [`Lock::try_acquire`].
    TryAcquire -> Result<Option<LockGuard>>
}

impl Acquire {
    /// The lock as this call last saw it while it waited: to tell people who holds it.
    pub fn last_seen(&self) -> Option<LockInfo> {
        let (client, request) = self.asked.as_ref()?;
        Some(client.strip(request.last_seen()?))
    }
}

impl Future for Acquire {
    type Output = Result<LockGuard>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.future).poll(context)
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("request", &self.asked.as_ref().map(|(_, request)| request))
            .finish_non_exhaustive()
    }
}

/// How long an acquisition that was told to stop may take to withdraw before its caller is answered. It ends in the
/// background then.
const GRACE: Duration = Duration::from_millis(100);

/// How often in a row a lease that had run out before its grant was seen is asked for anew.
const RUN_OUT: usize = 3;

pub(crate) fn acquire(lock: Lock) -> Acquire {
    let (client, wait_at_most, asked) = (lock.client.clone(), lock.wait_at_most, lock.request());
    let request = asked.as_ref().ok().map(|(request, _)| request.clone());
    let cancel = request.as_ref().map(|request| request.cancel().clone());
    let work = {
        let client = client.clone();
        async move {
            let (request, terms) = asked.map_err(|error| error.during("acquire", None))?;
            let span = tracing::debug_span!("acquire", key = %request.key(), mode = %request.mode());
            let obtained = obtain(&client, &request, terms, wait_at_most).instrument(span).await;
            obtained.map_err(|error| client.in_context(error, "acquire", request.key()))
        }
    };
    let future = InPlace::new(client.runtime().clone(), cancel, client.begun(work));
    Acquire { future, asked: request.map(|request| (client, request)) }
}

pub(crate) fn try_acquire(lock: Lock) -> TryAcquire {
    let (client, asked) = (lock.client.clone(), lock.request());
    let work = {
        let client = client.clone();
        async move {
            let (request, terms) = asked.map_err(|error| error.during("acquire", None))?;
            let span = tracing::debug_span!("try_acquire", key = %request.key(), mode = %request.mode());
            let obtained = try_obtain(&client, &request, terms).instrument(span).await;
            obtained.map_err(|error| client.in_context(error, "acquire", request.key()))
        }
    };
    TryAcquire(InPlace::new(client.runtime().clone(), None, client.begun(work)))
}

async fn try_obtain(client: &Arc<Client>, request: &Request, mut terms: Terms) -> Result<Option<LockGuard>> {
    terms.asked = client.clock().now();
    for _ in 0..RUN_OUT {
        client.check_open()?;
        match client.attempt(request).await? {
            Attempt::Held(_) => {
                client.observer().contended();
                return Ok(None);
            }
            Attempt::Acquired(lease) => {
                if let Some(guard) = client.hold(lease, request, &terms) {
                    return client.check_open().map(|()| Some(guard));
                }
            }
        }
        request.start_anew();
    }
    Err(run_out())
}

async fn obtain(
    client: &Arc<Client>,
    request: &Request,
    mut terms: Terms,
    wait_at_most: Option<Duration>,
) -> Result<LockGuard> {
    let _waiting = client.observer().waiting();
    terms.asked = client.clock().now();
    let until = wait_at_most.map(|limit| terms.asked + limit);
    let _turn = match client.turns() {
        // In a box, since this is the rare case.
        Some(turns) => Some(Box::pin(turn(client, turns, request, until)).await?),
        None => None,
    };
    for _ in 0..RUN_OUT {
        client.check_open()?;
        let attempt = wait(client, request, until).await;
        if request.was_queued() {
            client.observer().contended();
        }
        match attempt? {
            Attempt::Held(info) => {
                client.check_open()?;
                return Err(timed_out(client, Some(info)));
            }
            Attempt::Acquired(lease) => {
                if let Some(guard) = client.hold(lease, request, &terms) {
                    // A client that was closed meanwhile keeps nothing; dropping the guard releases.
                    return client.check_open().map(|()| guard);
                }
            }
        }
        request.start_anew();
    }
    Err(run_out())
}

/// Waits for this acquisition's turn among those of its client, where they queue.
async fn turn(client: &Client, turns: &Turns, request: &Request, until: Option<Moment>) -> Result<Turn> {
    tokio::select! {
        biased;
        turn = turns.turn(request.key()) => return Ok(turn),
        () = client.clock().sleep_until(until.unwrap_or(Moment::MAX)), if until.is_some() => {}
        () = client.closed().fired() => {}
        // Nobody hears the answer.
        () = request.cancel().fired() => {}
    }
    client.check_open()?;
    Err(timed_out(client, None))
}

/// Waits in the store until the lock is granted, `until` has come or the client is closed.
async fn wait(client: &Arc<Client>, request: &Request, until: Option<Moment>) -> Result<Attempt> {
    let outage = until.is_none().then(|| client.settings().outage.unwrap_or(request.ttl().get()));
    let mut work = Box::pin({
        let (client, request) = (client.clone(), request.clone());
        async move { client.contend(&request, outage).await }
    });
    tokio::select! {
        biased;
        attempt = &mut work => return attempt,
        () = client.clock().sleep_until(until.unwrap_or(Moment::MAX)), if until.is_some() => {}
        () = client.closed().fired() => {}
    }
    request.cancel().fire();
    let grace = client.clock().now() + GRACE;
    if let Some(attempt) = client.clock().timeout_at(grace, &mut work).await {
        return attempt.map_err(|error| match error.is_retryable() {
            // It is withdrawn in the background: the caller hears what it would have heard without that trouble.
            true => given_up(client, request, Some(error)),
            false => error,
        });
    }
    client.in_background({
        let (client, request) = (client.clone(), request.clone());
        async move {
            if let Attempt::Acquired(lease) = work.await? {
                let released = client.release(&lease).await;
                if request.is_in_doubt() {
                    // What is still under way must not take the lock again, for nobody (rule R3).
                    client.withdraw(&request);
                }
                released?;
            }
            Ok(())
        }
    });
    Err(given_up(client, request, None).with_effect(Effect::Unknown))
}

/// Why a wait ended that was told to end, and whose withdrawal is not confirmed yet.
fn given_up(client: &Client, request: &Request, last: Option<Error>) -> Error {
    let failing = request.failing_since().map(|since| client.clock().now().since(since));
    if let Err(closed) = client.check_open() {
        closed
    } else if let Some(failing) = failing.filter(|failing| *failing > request.op_timeout() + GRACE) {
        let failing = humantime::format_duration(Duration::from_secs(failing.as_secs()));
        let error =
            Error::new(ErrorKind::Unavailable, format!("the store was not reached for the last {failing} of the wait"));
        if let Some(last) = last { error.with_source(last) } else { error }
    } else if request.was_queued() {
        timed_out(client, request.last_seen())
    } else {
        Error::new(ErrorKind::Unavailable, "the store gave no answer while the wait lasted")
    }
}

fn timed_out(client: &Client, seen: Option<LockInfo>) -> Error {
    let Some(info) = seen else {
        return Error::new(ErrorKind::TimedOut, "others held it as long as the wait lasted");
    };
    let who = info.holders.iter().map(|holder| match holder.label.as_deref() {
        Some(label) if !label.is_empty() => format!("{label:?}"),
        _ => format!("{:?}", holder.id.as_str()),
    });
    let who = who.collect::<Vec<_>>().join(", ");
    let message = format!("others held it as long as the wait lasted{}{who}", if who.is_empty() { "" } else { ": " });
    Error::new(ErrorKind::TimedOut, message).with_lock_info(client.strip(info))
}

fn run_out() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the lease had run out before its grant was seen, {RUN_OUT} times in a row; take a longer TTL"),
    )
}
