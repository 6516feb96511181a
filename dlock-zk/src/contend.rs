//! From a place in a queue to a lease.

use crate::attempt::InQueue;
use crate::backend::ZkBackend;
use crate::error::from_zk;
use crate::lease::{Releasing, ZkLease};
use crate::queue::{Content, Contents, Queue};
use crate::session::Session;
use crate::vigil::{Vigil, event};
use crate::wait::Seen;
use dlock_core::{
    Attempt, Deadline, Effect, Error, ErrorKind, LockBackend, LockInfo, LockKey, Mode, Moment, Request, Result,
    Standing,
};
use futures_util::future::{OptionFuture, join};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zookeeper_client::Error as Zk;

/// How many holders are looked at for those who wait.
const SHOWN: usize = 32;

/// Who waits longer reads what the holders wrote of themselves; a queue that moves on sooner is not asked for it.
const QUICK: Duration = Duration::from_millis(50);

/// Whose turn is told within its session watches and reads nothing for so long. Should its neighbour's node have been removed by
/// somebody, it is known to the neighbour's own waiter, or then.
const TOLD_SOON: Duration = Duration::from_millis(500);

impl ZkBackend {
    /// A lease of a node that holds; `None` if its session has ended, or is about to.
    pub(crate) async fn grant(&self, session: &Arc<Session>, at: &InQueue, request: &Request) -> Option<Attempt> {
        if !session.has_time(self.give_up(request.op_timeout())).await {
            return None;
        }
        let deadline = Deadline::in_session(&session.deadline);
        let is_last = at.queue.nodes().last().is_none_or(|last| last.name == at.name);
        let vigil = Vigil {
            session: Arc::downgrade(session),
            place: Arc::downgrade(&at.place),
            deadline: deadline.clone(),
            // Who waits for a permit watches the one before it, which goes on holding: it must be told.
            touch: (matches!(request.mode(), Mode::Permit { .. }) && !is_last)
                .then(|| Content::write(request.label(), request.mode())),
        };
        self.0.sessions.runtime().spawn(vigil.keep(self.clock()));
        Some(Attempt::Acquired(Arc::new(ZkLease {
            session: session.clone(),
            place: at.place.clone(),
            sequence: at.sequence,
            token: at.token,
            deadline,
            state: Mutex::new(Releasing::Held),
        })))
    }

    /// The lock as a queue shows it, without the node of who asks.
    pub(crate) async fn held(
        &self,
        session: &Session,
        key: &LockKey,
        queue: &Queue,
        own: Option<&str>,
        give_up: Moment,
    ) -> Result<LockInfo, Zk> {
        let holders = queue.holders().filter(|node| Some(node.name.as_str()) != own).take(SHOWN);
        let contents = session.contents(&self.folder(key), holders, give_up).await?;
        Ok(queue.info(key, &contents, own))
    }

    /// The lock with all that is known of it; `None` if nobody holds it or waits.
    pub(crate) async fn look(&self, session: &Session, key: &LockKey, give_up: Moment) -> Result<Option<LockInfo>> {
        let folder = self.folder(key);
        let queue = session.list_anew(&folder, give_up).await?.filter(|queue| !queue.is_empty());
        let Some(queue) = queue else { return Ok(None) };
        let contents = session.contents(&folder, queue.nodes().iter(), give_up).await.map_err(from_zk)?;
        Ok(Some(queue.info(key, &contents, None)))
    }

    /// Waits in the queue, by one session.
    pub(crate) async fn wait_in(
        &self,
        session: &Arc<Session>,
        request: &Request,
        info: &mut Option<LockInfo>,
    ) -> Result<Waited> {
        let soon = || self.give_up(request.op_timeout());
        let mut at = match session.join_queue(request, true, soon()).await {
            Err(_) if !session.is_alive() => return Ok(Waited::LostItsPlace),
            joined => joined?,
        };
        let mut seen = Seen::None;
        loop {
            let Some(index) = at.queue.position(&at.name) else { return Ok(Waited::LostItsPlace) };
            match at.queue.standing(index) {
                Standing::Holds => return self.grant_waiter(session, &at, request).await,
                Standing::Disagrees(other) => {
                    session.discard(&at.place, soon()).await?;
                    return Err(disagrees(request.mode(), other));
                }
                Standing::Waits { behind } => {
                    let waited = self.wait_once(session, &mut at, behind, &mut seen, request, info).await;
                    match waited {
                        Err(_) if !session.is_alive() => return Ok(Waited::LostItsPlace),
                        Err(error) => return Err(session.not_done(&at.place, error)),
                        Ok(true) if !request.cancel().is_fired() => {
                            return self.grant_waiter(session, &at, request).await;
                        }
                        Ok(_) => {}
                    }
                }
            }
            if request.cancel().is_fired() {
                let until = soon();
                let looks = OptionFuture::from(info.is_none().then_some(async {
                    // Nobody has looked yet who holds it.
                    let queue = session.list(&at.place.folder, until).await.ok()??;
                    self.held(session, request.key(), &queue, Some(&at.name), until).await.ok()
                }));
                let (left, seen) = join(session.discard(&at.place, until), looks).await;
                left?;
                *info = info.take().or(seen.flatten());
                return Ok(Waited::Cancelled);
            }
            if !session.is_alive() {
                return Ok(Waited::LostItsPlace);
            }
            match session.list(&at.place.folder, soon()).await {
                Err(_) if !session.is_alive() => return Ok(Waited::LostItsPlace),
                Err(error) => return Err(session.not_done(&at.place, error)),
                Ok(queue) => (at.queue, at.in_part) = (queue.unwrap_or_else(|| Queue::new(&[])), false),
            }
        }
    }

    async fn grant_waiter(&self, session: &Arc<Session>, at: &InQueue, request: &Request) -> Result<Waited> {
        match self.grant(session, at, request).await {
            Some(attempt) => Ok(Waited::Granted(attempt)),
            None if !session.is_alive() => Ok(Waited::LostItsPlace),
            None => Err(session.not_done(&at.place, session_lost())),
        }
    }

    /// Waits until the queue is to be looked at again, or the lock was handed over: `true`.
    async fn wait_once(
        &self,
        session: &Arc<Session>,
        at: &mut InQueue,
        behind: usize,
        seen: &mut Seen,
        request: &Request,
        info: &mut Option<LockInfo>,
    ) -> Result<bool> {
        // Told before anything else is asked, of which the answer may be lost.
        if info.is_none() && !at.in_part {
            *info = Some(at.queue.info(request.key(), &Contents::new(), Some(&at.name)));
        }
        request.is_waiting(info.clone());
        if at.place.mode == Mode::Exclusive {
            session.places.waits(&at.place);
        }
        let (clock, soon) = (self.clock(), || self.give_up(request.op_timeout()));
        let quick = clock.now() + QUICK;
        let stops = async || {
            tokio::select! {
                () = request.cancel().fired() => {}
                () = session.ended() => {}
            }
        };
        let mut turn = session.turn(at, behind);
        if turn.is_told() {
            let turn = clock.timeout_at(clock.now() + TOLD_SOON, async {
                tokio::select! {
                    biased;
                    () = stops() => false,
                    has_come = turn.comes() => has_come,
                }
            });
            match turn.await {
                Some(has_come) if !request.cancel().is_fired() => return Ok(has_come),
                _ => {}
            }
        }
        if at.in_part {
            // It waits for longer, or nobody tells it: the whole queue is wanted.
            return Ok(false);
        }
        let Some(watch) = session.watch_queue(at, behind, seen, soon()).await? else {
            return Ok(turn.has_come().await);
        };
        let mut is_over = pin!(async {
            tokio::select! {
                biased;
                () = stops() => false,
                has_come = turn.comes() => has_come,
                _ = event(watch) => turn.has_come().await,
            }
        });
        let over = clock.timeout_at(quick, is_over.as_mut()).await;
        match over {
            Some(has_come) if !request.cancel().is_fired() => return Ok(has_come),
            _ => {}
        }
        let held = self.held(session, request.key(), &at.queue, Some(&at.name), soon()).await;
        *info = Some(held.map_err(from_zk)?);
        request.is_waiting(info.clone());
        match over {
            Some(has_come) => Ok(has_come),
            None => match looks_after(at) {
                Some(pause) => Ok(clock.timeout_at(clock.now() + pause, is_over).await.unwrap_or(false)),
                None => Ok(is_over.await),
            },
        }
    }
}

/// When a waiter for a permit looks by itself: whoever is next in line watches for all, and may be dead. The further behind,
/// the later, so that a crowd asks for little.
fn looks_after(at: &InQueue) -> Option<Duration> {
    let Mode::Permit { limit } = at.place.mode else { return None };
    let position = u32::try_from(at.queue.position(&at.name)?).ok()?;
    let behind = position.checked_sub(limit.get()).filter(|behind| *behind > 0)?;
    Some((NEXT_MAY_BE_DEAD * (1 + behind / 8)).mul_f64(rand::random_range(0.8..1.2)))
}

/// How far apart the first of those looks.
const NEXT_MAY_BE_DEAD: Duration = Duration::from_secs(5);

/// How waiting in a session's queue ended.
pub(crate) enum Waited {
    Granted(Attempt),
    Cancelled,
    /// The session has ended, or somebody removed the node: it queues again, at the end.
    LostItsPlace,
}

pub(crate) fn session_lost() -> Error {
    Error::new(ErrorKind::Unavailable, "the session could not be kept alive for long enough")
        .with_effect(Effect::Unknown)
}

/// The permit's limit or the kind of lock is another than the one in use.
pub(crate) fn disagrees(asked: Mode, other: Mode) -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        format!("this lock is in use as {other}, and it was asked for as {asked}; all callers of a key must agree"),
    )
}
