//! [`Standing in a queue`](Queue): from a request to a node in it.

use crate::error::{classify, from_zk};
use crate::node::{Node, folder};
use crate::place::{Place, State};
use crate::queue::{Content, Queue, token};
use crate::session::Session;
use dlock_core::{Effect, Error, ErrorKind, FencingToken, Moment, Request, Result};
use futures_util::future::join;
use std::sync::Arc;
use zookeeper_client::{CreateMode, Error as Zk, Stat};

/// An acquisition's node, and the queue that it is in.
#[derive(Debug)]
pub(crate) struct InQueue {
    pub(crate) place: Arc<Place>,
    pub(crate) name: String,
    pub(crate) token: FencingToken,
    pub(crate) queue: Queue,
}

impl InQueue {
    pub(crate) fn path(&self) -> String {
        self.place.path(&self.name)
    }
}

/// How often the lock's folder may vanish between making it and using it.
const FOLDERS: usize = 5;

impl Session {
    /// Puts a node for the request into the queue, or finds the one of an earlier try; with the queue as it was after.
    ///
    /// After an error the place is kept: its effect is `Unknown` wherever there may be a node.
    pub(crate) async fn join_queue(&self, request: &Request, give_up: Moment) -> Result<InQueue> {
        let id = request.holder();
        let place = self.places.find(&id).unwrap_or_else(|| {
            self.places.begin(id.clone(), request.mode(), folder(&self.settings.root, request.key()))
        });
        let joined = self.join_at(&place, request, give_up).await;
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

    async fn join_at(&self, place: &Arc<Place>, request: &Request, give_up: Moment) -> Result<InQueue> {
        if place.state() == State::Doubt {
            // A create that could still come would have come before the list (rule R3).
            let mut found = self.search(place, give_up).await?.into_iter();
            place.set(found.next().map_or(State::New, |(name, stat)| State::At { name, token: token(&stat) }));
        }
        match place.state() {
            State::At { name, token } => {
                let queue = self.list(&place.folder, give_up).await?.unwrap_or_else(|| Queue::new(&[]));
                Ok(InQueue { place: place.clone(), name, token, queue })
            }
            State::New | State::Doubt => {
                for _ in 0..FOLDERS {
                    match self.create(place, request, give_up).await {
                        Err(Zk::NoNode) => self.make_folder(&place.folder, give_up).await.map_err(from_zk)?,
                        Err(error) => return Err(from_zk(error)),
                        Ok((name, stat, listed)) => {
                            let queue = listed?.unwrap_or_else(|| Queue::new(&[]));
                            return Ok(InQueue { place: place.clone(), name, token: token(&stat), queue });
                        }
                    }
                }
                Err(Error::new(ErrorKind::Unavailable, "the lock's folder vanishes as often as it is made"))
            }
            State::Leaving { .. } => Err(Error::new(ErrorKind::Unexpected, "this acquisition was withdrawn before")),
        }
    }

    /// Creates the node, and lists the queue after it in the same trip: requests of one session are done in order.
    async fn create(
        &self,
        place: &Place,
        request: &Request,
        give_up: Moment,
    ) -> Result<(String, Stat, Result<Option<Queue>>), Zk> {
        let client = self.client()?;
        let prefix = Node::prefix(&place.id, place.mode);
        let (path, content) = (place.path(&prefix), Content::write(request.label(), place.mode));
        let options = self.settings.options(CreateMode::EphemeralSequential);
        place.set(State::Doubt);
        let (create, list) = (client.create(&path, &content, &options), client.get_children(&place.folder));
        let answers = self.ask(give_up, async { Ok(join(create, list).await) });
        let (created, listed) = answers.await?;
        match created {
            Ok((stat, sequence)) => {
                let name = format!("{prefix}{sequence}");
                place.set(State::At { name: name.clone(), token: token(&stat) });
                Ok((name, stat, crate::session::read_folder(listed)))
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
