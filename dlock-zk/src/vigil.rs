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
pub(crate) async fn event(watch: OneshotWatcher) -> Option<WatchedEvent> {
    // The client panics when its own task has vanished.
    AssertUnwindSafe(watch.changed()).catch_unwind().await.ok()
}

/// Sees to it that the loss of a held node is known at once (rule V5): a keep-alive does not see that it was deleted.
/// Once set, the watch costs nothing: the node's deletion by its own holder ends it, and the client sets it again after
/// it was connected anew.
#[derive(Debug)]
pub(crate) struct Vigil {
    pub(crate) session: Weak<Session>,
    pub(crate) place: Weak<Place>,
    pub(crate) path: String,
    pub(crate) deadline: Deadline,
    /// Written over the node's content first, so that who watches it looks again.
    pub(crate) touch: Option<Vec<u8>>,
}

/// A lock that is held for less than this is not watched: it is mostly released before the loss could be told.
const BRIEF: Duration = Duration::from_millis(5);

impl Vigil {
    pub(crate) async fn keep(mut self, clock: Clock) {
        if self.touch.is_none() {
            clock.sleep(BRIEF).await;
        }
        loop {
            let Some((session, place)) = self.session.upgrade().zip(self.place.upgrade()) else { return };
            let Ok(client) = session.client() else { return };
            if place.is_left() {
                return;
            }
            drop(place);
            // Without another limit: what is sent while the connection is down waits for the next one.
            let watch = tokio::select! {
                watch = self.begin(&client) => watch,
                () = session.ended() => return,
            };
            // A session ends when nobody has it any more; a watch is not somebody.
            drop((session, client));
            match watch {
                Ok(watch) => {
                    self.touch = None;
                    match event(watch).await.map(|event| event.event_type) {
                        Some(EventType::NodeDeleted) => self.is_gone(&clock),
                        // Somebody wrote over it, which harms nothing.
                        Some(EventType::NodeDataChanged) => continue,
                        _ => {}
                    }
                    return;
                }
                Err(Zk::NoNode) => return self.is_gone(&clock),
                Err(error) if ends_session(&error) => return,
                Err(error) => {
                    tracing::debug!(path = self.path, %error, "could not watch a held node; trying again");
                    let lost = classify(&error).0 == ErrorKind::Unavailable;
                    clock.sleep(Duration::from_millis(if lost { 20 } else { 1_000 })).await;
                }
            }
        }
    }

    /// Writes what is to be written, and watches.
    async fn begin(&self, client: &Client) -> Result<OneshotWatcher, Zk> {
        let touch = self.touch.as_ref().map(|content| client.set_data(&self.path, content, None));
        let watch = client.get_and_watch_data(&self.path);
        if let Some(touch) = touch {
            touch.await?;
        }
        Ok(watch.await?.2)
    }

    fn is_gone(&self, clock: &Clock) {
        if self.place.upgrade().is_none_or(|place| !place.is_left()) {
            self.deadline.is_gone(clock.now());
        }
    }
}
