//! [`Turn`]: a lock that is handed over within one session.
//!
//! The nodes of many acquisitions often stand one behind another in one session. Then nobody needs to be woken by the
//! server: whoever releases deletes its node in one transaction with the proof that the next one's is still there, and the
//! transaction's success is the next one's grant, without a look at the queue. It is right because
//!
//! - only a node that stands first holds an exclusive lock, and none comes between two that were once neighbours: the next
//!   one stands first from that transaction on;
//! - the session lived when it was done, and the node was there: nothing else makes a grant of it (rule Q2).
//!
//! Wherever that can't be shown, the next one looks at the queue as it would have done anyway.

use crate::attempt::InQueue;
use crate::place::Place;
use crate::session::Session;
use dlock_core::{Mode, Moment};
use futures_util::FutureExt;
use std::sync::Arc;
use tokio::sync::watch::{Receiver, Sender, channel};
use zookeeper_client::{Error as Zk, MultiWriteError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    None,
    /// The one before is being deleted in one transaction with the proof.
    Coming,
    /// The transaction was carried out.
    Come,
}

/// Who waits directly behind a node, in the same session. Dropped without a hand-over, it tells that one to look.
#[derive(Debug)]
pub(crate) struct Next {
    path: String,
    news: Sender<News>,
}

/// A waiter's turn after the node directly before it, if that is one of the same session.
#[derive(Debug)]
pub(crate) struct Turn(Option<Receiver<News>>);

impl Turn {
    pub(crate) const NONE: Self = Self(None);

    /// Whether the one before may tell of itself.
    pub(crate) fn is_told(&self) -> bool {
        self.0.is_some()
    }

    /// `true` once the lock was handed over, `false` once there is another reason to look at the queue; pending if the one
    /// before tells nothing of itself. Cancel-safe.
    pub(crate) async fn comes(&mut self) -> bool {
        let Some(news) = &mut self.0 else { return std::future::pending().await };
        let has_come = news.wait_for(|news| *news == News::Come).await.is_ok();
        self.0 = None;
        has_come
    }

    /// Whether the lock was handed over, after it was seen that the one before has gone: the server tells that earlier
    /// than it answers the transaction.
    pub(crate) async fn has_come(&mut self) -> bool {
        match &self.0 {
            Some(news) if *news.borrow() != News::None => self.comes().await,
            _ => false,
        }
    }
}

impl Place {
    /// Puts who stands directly behind in line for a hand-over.
    fn precedes(&self, path: String) -> Turn {
        let (news, told) = channel(News::None);
        self.set_next(Next { path, news });
        if !self.is_there() {
            // Too late to be seen by its release.
            drop(self.take_next());
            return Turn::NONE;
        }
        Turn(Some(told))
    }
}

impl Session {
    /// The turn of a waiter behind the node at `behind`.
    pub(crate) fn turn(&self, at: &InQueue, behind: usize) -> Turn {
        let before = &at.queue.nodes()[behind];
        if (at.place.mode, before.mode) != (Mode::Exclusive, Mode::Exclusive) {
            return Turn::NONE;
        }
        let is_it = |place: &Arc<Place>| place.sequence() == Some(before.sequence);
        let place = self.places.find(&before.id).filter(|place| place.folder == at.place.folder).filter(is_it);
        place.map_or(Turn::NONE, |place| place.precedes(at.path()))
    }

    /// Deletes the node of a holder that was [left](Place::leave), and hands the lock to the one next in line if that is of
    /// this session.
    ///
    /// Dropped, or without an answer, it may be carried out all the same; who is next then looks at the queue.
    pub(crate) async fn delete_held(&self, place: &Place, name: &str, give_up: Moment) -> Result<(), Zk> {
        let (client, path) = (self.client()?, place.path(name));
        if let Some(next) = place.take_next().filter(|next| !next.news.is_closed()) {
            let mut writer = client.new_multi_writer();
            writer.add_delete(&path, None)?;
            writer.add_check_version(&next.path, -1)?;
            next.news.send_replace(News::Coming);
            let done = writer.commit().map(|done| match done {
                Ok(_) => Ok(true),
                Err(MultiWriteError::OperationFailed { index: 1, source: Zk::NoNode }) => Ok(false),
                Err(MultiWriteError::OperationFailed { source, .. } | MultiWriteError::RequestFailed { source }) => {
                    Err(source)
                }
            });
            if self.ask(give_up, done).await? {
                next.news.send_replace(News::Come);
                return Ok(());
            }
        }
        self.ask(give_up, client.delete(&path, None)).await
    }
}
