//! The task that keeps a session alive, and what its end leaves to do.

use crate::error::{from_etcd, is_lease_gone};
use crate::names::Names;
use crate::session::Session;
use crate::store::{Store, seconds};
use dlock_core::{Cancel, Error, ErrorKind, LostCause, Moment, Result, valid_until};
use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use std::sync::Arc;
use std::time::Duration;

/// Keeps one session alive until it ends or the client stops.
pub(crate) struct KeepAlive {
    pub(crate) session: Arc<Session>,
    pub(crate) store: Store,
    pub(crate) names: Names,
    pub(crate) op_timeout: Duration,
    pub(crate) stop: Cancel,
}

/// The shortest time for one try, and for the pause after a failed one.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest pause after a failed try.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

type Stream = (LeaseKeeper, LeaseKeepAliveStream);

impl KeepAlive {
    pub(crate) async fn run(self) {
        let cause = tokio::select! {
            () = self.stop.fired() => return,
            cause = self.session.deadline.ended() => cause,
            cause = self.keep() => cause,
            cause = self.sweep() => cause,
        };
        self.session.deadline.end(cause);
        tracing::debug!(cause = cause.as_str(), "a session ended");
        // What it has left in the store must keep nobody waiting for its whole TTL.
        let clock = &self.store.clock;
        let last = clock.now() + self.session.ttl + self.op_timeout;
        for pause in dlock_core::backoff() {
            let revoked = self.store.revoke(self.session.lease, clock.now() + self.op_timeout).await;
            if revoked.is_ok() || clock.now() >= last {
                return;
            }
            tokio::select! {
                () = self.stop.fired() => return,
                () = clock.sleep(pause) => {}
            }
        }
    }

    /// Sends a keep-alive every third of the TTL, one at a time, and tells why the session ended.
    async fn keep(&self) -> LostCause {
        let (session, clock) = (&self.session, &self.store.clock);
        let (mut stream, mut pauses) = (None, dlock_core::backoff());
        let mut due = *session.answered.borrow() + session.ttl / 3;
        loop {
            tokio::select! {
                () = clock.sleep_until(due.min(session.deadline.at())) => {}
                () = session.kick.notified() => {}
            }
            let sent = clock.now();
            let left = session.deadline.at().since(sent);
            if left.is_zero() {
                return LostCause::Expired;
            }
            let within = (left / 3).min(self.op_timeout).max(SHORTEST);
            let asked = self.store.connection.asks(within);
            let answer = clock.timeout_at(sent + within, self.ping(&mut stream)).await;
            match answer {
                Some(_) => asked.got_answer(),
                None => drop(asked),
            }
            let now = clock.now();
            match answer {
                Some(Ok(Some(ttl))) => {
                    if !session.deadline.extend(now, valid_until(sent, ttl.min(session.ttl))) {
                        return session.deadline.cause().unwrap_or(LostCause::Expired);
                    }
                    session.answered.send_replace(sent);
                    pauses = dlock_core::backoff();
                    due = sent + session.ttl / 3;
                }
                Some(Ok(None)) => return LostCause::SessionEnded,
                failed => {
                    // A late reply on this stream would pass for one to the next try (rule V5).
                    stream = None;
                    if let Some(Err(error)) = failed {
                        tracing::debug!(error = %error.chain(), "could not keep a session alive; trying again");
                    }
                    let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
                    due = now + pause.min(session.deadline.at().since(now) / 8).clamp(SHORTEST, LONGEST_PAUSE);
                }
            }
        }
    }

    /// One keep-alive and its answer; `None` if the lease is gone. Opens the stream if there is none.
    async fn ping(&self, stream: &mut Option<Stream>) -> Result<Option<Duration>> {
        let Some((keeper, answers)) = stream else {
            return match self.store.connection.client().lease_client().keep_alive(self.session.lease).await {
                Ok(opened) => {
                    *stream = Some(opened);
                    Ok(Some(self.session.ttl))
                }
                Err(error) if is_lease_gone(&error) => Ok(None),
                Err(error) => Err(from_etcd(error)),
            };
        };
        keeper.keep_alive().await.map_err(from_etcd)?;
        match answers.message().await.map_err(from_etcd)? {
            Some(answer) => Ok(seconds(answer.ttl()).filter(|ttl| !ttl.is_zero())),
            None => Err(Error::new(ErrorKind::Unavailable, "the server ended the stream of keep-alives")),
        }
    }

    /// Once a TTL deletes what stands under the lease and nobody wants (rule R5). If that can't be done for a whole TTL,
    /// the session is given up.
    async fn sweep(&self) -> LostCause {
        let (ttl, clock) = (self.session.ttl, &self.store.clock);
        loop {
            clock.sleep(ttl).await;
            let last = clock.now() + ttl;
            for pause in dlock_core::backoff() {
                match self.sweep_once(clock.now() + self.op_timeout).await {
                    Ok(true) => break,
                    Ok(false) => return LostCause::SessionEnded,
                    Err(error) if clock.now() >= last => {
                        tracing::warn!(error = %error.chain(), "a session is given up: it may hold what nobody wants");
                        return LostCause::SessionEnded;
                    }
                    Err(_) => clock.sleep(pause).await,
                }
            }
        }
    }

    /// `false` if the lease is gone.
    async fn sweep_once(&self, give_up: Moment) -> Result<bool> {
        let Some((_, keys)) = self.store.time_to_live(self.session.lease, true, give_up).await? else {
            return Ok(false);
        };
        // Each entry was claimed before it was sent: what is in this answer and not claimed now is wanted no more.
        let mut orphans = self.session.orphans(keys, self.store.clock.now());
        orphans.retain(|key| !self.names.is_mark(key));
        if !orphans.is_empty() {
            tracing::debug!(count = orphans.len(), "removing entries that nobody wants");
            self.store.forget(&orphans, give_up).await?;
        }
        Ok(true)
    }
}
