//! [`Standing in a queue`](Queue): from a request to a node in it.

use crate::error::{classify, from_zk};
use crate::node::{Node, folder};
use crate::place::{Place, State};
use crate::queue::{Content, Queue, token};
use crate::session::Session;
use dlock_core::{Effect, Error, ErrorKind, FencingToken, Mode, Moment, Request, Result};
use futures_util::future::{OptionFuture, join};
use std::sync::Arc;
use zookeeper_client::{CreateMode, Error as Zk, Stat};

/// An acquisition's node, and the queue that it is in.
#[derive(Debug)]
pub(crate) struct InQueue {
    pub(crate) place: Arc<Place>,
    pub(crate) sequence: i64,
    pub(crate) name: String,
    pub(crate) token: FencingToken,
    pub(crate) queue: Queue,
    /// Of the queue only this node and the one directly before it are known.
    pub(crate) in_part: bool,
}

impl InQueue {
    pub(crate) fn path(&self) -> String {
        self.place.path(&self.name)
    }
}

/// How often the lock's folder may vanish between making it and using it.
const FOLDERS: usize = 5;

impl Session {
    /// Puts a node for the request into the queue, or finds the one of an earlier try; with the queue as it was after, or, if it
    /// `waits` for its turn, perhaps with a part of that.
    ///
    /// After an error the place is kept: its effect is `Unknown` wherever there may be a node.
    pub(crate) async fn join_queue(&self, request: &Request, waits: bool, give_up: Moment) -> Result<InQueue> {
        let id = request.holder();
        let place = self.places.find(&id).unwrap_or_else(|| {
            self.places.begin(id.clone(), request.mode(), folder(&self.settings.root, request.key()).into())
        });
        let joined = self.join_at(&place, request, waits, give_up).await;
        joined.map_err(|error| self.not_done(&place, error))
    }

    /// An error of an acquisition that has a place.
    pub(crate) fn not_done(&self, place: &Arc<Place>, error: Error) -> Error {
        if place.state() == State::New {
            self.places.forget(&place.id);
            return error.with_effect(Effect::NotApplied);
        }
        self.keep(place.clone());
        error.with_effect(Effect::Unknown)
    }

    async fn join_at(&self, place: &Arc<Place>, request: &Request, waits: bool, give_up: Moment) -> Result<InQueue> {
        if place.state() == State::Doubt {
            // A create that could still come would have come before the list (rule R3).
            let found = self.search(place, give_up).await?;
            let at = found.first().and_then(|(name, stat)| Some((Node::read(name)?.sequence, token(stat))));
            place.set(at.map_or(State::New, |(sequence, token)| State::At { sequence, token }));
        }
        match place.state() {
            State::At { sequence, token } => {
                let name = place.name(sequence);
                let queue = self.list(&place.folder, give_up).await?.unwrap_or_else(|| Queue::new(&[]));
                Ok(InQueue { place: place.clone(), sequence, name, token, queue, in_part: false })
            }
            State::New | State::Doubt => {
                for _ in 0..FOLDERS {
                    let last = self.places.last_in(&place.folder).filter(|_| waits && place.mode == Mode::Exclusive);
                    match self.create(place, request, last.is_none(), give_up).await {
                        Err(Zk::NoNode) => self.make_folder(&place.folder, give_up).await.map_err(from_zk)?,
                        Err(error) => return Err(from_zk(error)),
                        Ok((sequence, stat, listed)) => {
                            let name = place.name(sequence);
                            let before = self.places.last_in(&place.folder).filter(|_| listed.is_none());
                            let pair = before.and_then(|before| Queue::neighbours(&before, &name));
                            let in_part = pair.is_some();
                            let queue = match (pair, listed) {
                                (Some(pair), _) => Some(pair),
                                (None, Some(listed)) => listed?,
                                (None, None) => self.list(&place.folder, give_up).await?,
                            };
                            let queue = queue.unwrap_or_else(|| Queue::new(&[]));
                            let (place, token) = (place.clone(), token(&stat));
                            return Ok(InQueue { place, sequence, name, token, queue, in_part });
                        }
                    }
                }
                Err(Error::new(ErrorKind::Unavailable, "the lock's folder vanishes as often as it is made"))
            }
            State::Leaving { .. } => Err(Error::new(ErrorKind::Unexpected, "this acquisition was withdrawn before")),
        }
    }

    /// Creates the node, and if wanted lists the queue after it in the same trip: requests of one session are done in order.
    async fn create(
        &self,
        place: &Place,
        request: &Request,
        lists: bool,
        give_up: Moment,
    ) -> Result<(i64, Stat, Option<Result<Option<Queue>>>), Zk> {
        let client = self.client()?;
        let prefix = Node::prefix(&place.id, place.mode);
        let (path, content) = (place.path(&prefix), Content::write(request.label(), place.mode));
        let options = self.settings.options(CreateMode::EphemeralSequential);
        place.set(State::Doubt);
        let create = client.create(&path, &content, &options);
        let list = OptionFuture::from(lists.then(|| client.get_children(&place.folder)));
        let answers = self.ask(give_up, async { Ok(join(create, list).await) });
        let (created, listed) = answers.await?;
        match created {
            Ok((stat, sequence)) => {
                let sequence = sequence.into_i64();
                place.set(State::At { sequence, token: token(&stat) });
                Ok((sequence, stat, listed.map(crate::session::read_folder)))
            }
            Err(error) => {
                if classify(&error).1 == Effect::NotApplied {
                    place.set(State::New);
                }
                if crate::error::ends_session(&error) {
                    self.end(dlock_core::LostCause::SessionEnded);
                }
                Err(error)
            }
        }
    }
}
