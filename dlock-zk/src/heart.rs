//! Keeps a session alive, and clean.

use crate::error::ends_session;
use crate::node::Node;
use crate::session::Session;
use dlock_core::{Clock, LostCause, Moment};
use futures_util::future::join_all;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;
use zookeeper_client::{Client, Error as Zk, StateWatcher};

/// How many nodes are deleted at once.
const AT_ONCE: usize = 100;

/// Resolves once the client says that the session is over.
pub(crate) async fn terminal(states: &mut StateWatcher) {
    while !states.state().is_terminated() {
        states.changed().await;
    }
}

/// Sends a request of its own every third of the TTL and counts the session's validity from its sending, one at a time
/// (rules V5, V6): what the client says of its connection proves neither loss nor validity, and it tells an expiry
/// late. Once a TTL it deletes the nodes that nobody wants any more (rule R5). It ends with the session.
pub(crate) async fn keep(session: Weak<Session>, ttl: Duration, mut states: StateWatcher, clock: Clock) {
    let mut swept = clock.now();
    let mut next = clock.now() + ttl / 3;
    loop {
        let Some(alive) = session.upgrade() else { return };
        let until = alive.deadline.at();
        if clock.now() >= until {
            // Given up, also where the server still has it: what it keeps must not keep others waiting.
            alive.end(LostCause::Expired);
            return;
        }
        drop(alive);
        tokio::select! {
            biased;
            () = terminal(&mut states) => {
                if let Some(alive) = session.upgrade() {
                    alive.end(LostCause::SessionEnded);
                }
                return;
            }
            () = clock.sleep_until(next.min(until)) => {}
        }
        let Some(alive) = session.upgrade() else { return };
        if clock.now() < next {
            continue;
        }
        let sent = clock.now();
        // While the session's end is not told, nothing but its deadline ends the wait for an answer.
        match alive.keep_alive(alive.deadline.at()).await {
            Ok(()) => next = sent + ttl / 3,
            Err(error) if ends_session(&error) => return,
            Err(error) => {
                tracing::debug!(%error, "could not keep the session alive; trying again");
                alive.untidy.store(true, Ordering::Release);
                next = clock.now() + (ttl / 40).clamp(Duration::from_millis(5), Duration::from_millis(500));
                continue;
            }
        }
        if alive.untidy.swap(false, Ordering::AcqRel) || sent >= swept + ttl {
            match sweep(&alive, next.max(clock.now() + ttl / 6)).await {
                Ok(()) => swept = sent,
                Err(error) => {
                    tracing::debug!(%error, "could not look for nodes that were left behind; trying again");
                    alive.untidy.store(true, Ordering::Release);
                    if clock.now() >= swept + 2 * ttl {
                        tracing::warn!(%error, "nodes that were left behind can't be removed; giving the session up");
                        alive.end(LostCause::SessionEnded);
                        return;
                    }
                }
            }
        }
    }
}

/// Deletes the session's nodes that nobody wants any more.
async fn sweep(session: &Session, give_up: Moment) -> Result<(), Zk> {
    let client = session.client()?;
    let now = session.clock.now();
    let paths = session.ask(give_up, client.list_ephemerals(&session.settings.root)).await?;
    let unwanted = |path: &String| {
        let node = path.rsplit_once('/').and_then(|(_, name)| Node::read(name));
        node.is_some_and(|node| !session.places.wants(&node.id, now))
    };
    let orphans: Vec<_> = paths.into_iter().filter(unwanted).collect();
    for orphans in orphans.chunks(AT_ONCE) {
        tracing::debug!(count = orphans.len(), "removing nodes that were left behind");
        let deleted = join_all(orphans.iter().map(|path| delete(session, &client, path, give_up))).await;
        deleted.into_iter().collect::<Result<(), Zk>>()?;
    }
    session.places.tidy(now);
    Ok(())
}

async fn delete(session: &Session, client: &Client, path: &str, give_up: Moment) -> Result<(), Zk> {
    match session.ask(give_up, client.delete(path, None)).await {
        Ok(()) | Err(Zk::NoNode) => Ok(()),
        Err(error) => Err(error),
    }
}
