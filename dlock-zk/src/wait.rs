//! Waiting in a queue, and leaving it.

use crate::attempt::InQueue;
use crate::error::from_zk;
use crate::queue::Queue;
use crate::session::Session;
use dlock_core::{Mode, Moment, Result};
use futures_util::FutureExt;
use zookeeper_client::{Error as Zk, MultiWriteError, OneshotWatcher};

/// The node before a waiter for a permit, as it was when it last was looked at: its name and how often it was written.
pub(crate) type Seen = Option<(String, i32)>;

impl Session {
    /// A watch for the change that may let the node hold; `None` if it may have come already.
    ///
    /// Exclusive and shared waiters watch the nearest node that they can't hold together with. For a permit, any of those
    /// that hold may go first: whoever is next in line watches the folder, alone, and each of the others the node before
    /// it. Once that one is granted it goes on holding, so it writes to its own node, and the next in line looks again:
    /// no place stays empty, and a hand-over costs the same however many wait (rule Q2).
    pub(crate) async fn watch_queue(
        &self,
        at: &mut InQueue,
        behind: usize,
        seen: &mut Seen,
        give_up: Moment,
    ) -> Result<Option<OneshotWatcher>> {
        let client = self.client().map_err(from_zk)?;
        let limit = match at.place.mode {
            Mode::Permit { limit } => usize::try_from(limit.get()).ok(),
            Mode::Exclusive | Mode::Shared => None,
        };
        if limit.is_some() && limit == at.queue.position(&at.name) {
            let listed = self.ask(give_up, client.get_and_watch_children(&at.place.folder)).await;
            let (children, _, watch) = listed.map_err(from_zk)?;
            at.queue = Queue::new(&children);
            let still_next = limit == at.queue.position(&at.name);
            return Ok(still_next.then_some(watch));
        }
        let before = &at.queue.nodes()[behind];
        match self.ask(give_up, client.get_and_watch_data(&at.place.path(&before.name))).await {
            Ok((_, stat, watch)) => {
                // Written before it was watched: it was granted after the queue was read.
                let now = Some((before.name.clone(), stat.version));
                let is_news = limit.is_some() && stat.version > 0 && *seen != now;
                *seen = now;
                Ok((!is_news).then_some(watch))
            }
            Err(Zk::NoNode) => Ok(None),
            Err(error) => Err(from_zk(error)),
        }
    }

    /// Leaves the queue if the node can still not hold. `false` if that is not so any more.
    ///
    /// In one transaction with the proof, so that a node that is about to go never stands first: another's attempt would
    /// find a free lock held by it (rule Q4).
    pub(crate) async fn leave_if_held(&self, at: &InQueue, give_up: Moment) -> Result<bool> {
        let Some(index) = at.queue.position(&at.name) else { return Ok(true) };
        let (client, proof) = (self.client().map_err(from_zk)?, at.queue.proof(index));
        let mut leave = client.new_multi_writer();
        for node in &proof {
            leave.add_check_version(&at.place.path(&node.name), -1).map_err(from_zk)?;
        }
        leave.add_delete(&at.path(), None).map_err(from_zk)?;
        match self.ask(give_up, leave.commit().map(Ok)).await.map_err(from_zk)? {
            Ok(_) => Ok(true),
            Err(MultiWriteError::OperationFailed { index, source: Zk::NoNode }) => Ok(index >= proof.len()),
            Err(MultiWriteError::OperationFailed { source, .. } | MultiWriteError::RequestFailed { source }) => {
                Err(from_zk(source))
            }
        }
    }
}
