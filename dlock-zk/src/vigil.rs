//! Watches the nodes that hold.

use crate::error::{classify, ends_session};
use crate::place::Place;
use crate::session::Session;
use dlock_core::{Clock, Deadline, ErrorKind};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Weak;
use std::time::Duration;
use zookeeper_client::{Client, Error as Zk, EventType, OneshotWatcher, WatchedEvent};

/// The next event of a watch; `None` when the session's runtime is gone.
pub(crate) fn event(watch: OneshotWatcher) -> impl Future<Output = Option<WatchedEvent>> {
    // The client panics when its own task has vanished.
    AssertUnwindSafe(watch.changed()).catch_unwind().map(Result::ok)
}

/// Sees to it that the loss of a held node is known at once (rule V5): a keep-alive does not see that it was deleted.
/// Once set, the watch costs nothing: the node's deletion by its own holder ends it, and the client sets it again after
/// it was connected anew.
#[derive(Debug)]
pub(crate) struct Vigil {
    pub(crate) session: Weak<Session>,
    pub(crate) place: Weak<Place>,
    pub(crate) deadline: Deadline,
    /// Written over the node's content first, so that who watches it looks again.
    pub(crate) touch: Option<Vec<u8>>,
}

/// A lock that is held for less than this is not watched: it is mostly released before the loss could be told.
const BRIEF: Duration = Duration::from_millis(5);

impl Vigil {
    pub(crate) async fn keep(mut self, clock: Clock) {
        if self.touch.is_none() {
            Box::pin(clock.sleep(BRIEF)).await;
        }
        loop {
            // In boxes: of all this only the wait stays in memory as long as the lock is held.
            let Some(watch) = Box::pin(self.begun(&clock)).await else { return };
            self.touch = None;
            match event(watch).await.map(|event| event.event_type) {
                Some(EventType::NodeDeleted) => return self.is_gone(&clock),
                // Somebody wrote over it, which harms nothing.
                Some(EventType::NodeDataChanged) => {}
                _ => return,
            }
        }
    }

    /// The watch of a node that is still held.
    async fn begun(&self, clock: &Clock) -> Option<OneshotWatcher> {
        loop {
            // A session ends when nobody has it any more; a watch is not somebody.
            let (session, place) = self.session.upgrade().zip(self.place.upgrade())?;
            let client = session.client().ok()?;
            let path = place.path(&place.name(place.sequence()?));
            drop(place);
            // Without another limit: what is sent while the connection is down waits for the next one.
            let watch = tokio::select! {
                watch = self.begin(&client, &path) => watch,
                () = session.ended() => return None,
            };
            drop((session, client));
            match watch {
                Ok(watch) => return Some(watch),
                Err(Zk::NoNode) => {
                    self.is_gone(clock);
                    return None;
                }
                Err(error) if ends_session(&error) => return None,
                Err(error) => {
                    tracing::debug!(path, %error, "could not watch a held node; trying again");
                    let lost = classify(&error).0 == ErrorKind::Unavailable;
                    clock.sleep(Duration::from_millis(if lost { 20 } else { 1_000 })).await;
                }
            }
        }
    }

    /// Writes what is to be written, and watches.
    async fn begin(&self, client: &Client, path: &str) -> Result<OneshotWatcher, Zk> {
        let touch = self.touch.as_ref().map(|content| client.set_data(path, content, None));
        let watch = client.get_and_watch_data(path);
        if let Some(touch) = touch {
            touch.await?;
        }
        Ok(watch.await?.2)
    }

    fn is_gone(&self, clock: &Clock) {
        let place = self.place.upgrade();
        if place.as_ref().is_none_or(|place| !place.is_left()) {
            self.deadline.is_gone(clock.now());
            if let Some(place) = place {
                place.is_gone();
            }
        }
    }
}
