//! [`Session`]: one session with the servers, by which many locks live.

use crate::config::Settings;
use crate::error::{ends_session, from_zk, not_a_folder};
use crate::heart;
use crate::node::Node;
use crate::place::{Place, Places, locked};
use crate::queue::{Contents, Queue};
use dlock_core::{Clock, Deadline, Effect, Error, ErrorKind, LockKey, LostCause, Moment, Result, drift, valid_until};
use futures_util::future::join;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zookeeper_client::{Client, CreateMode, Error as Zk, MultiReadResult, StateWatcher};

/// One session with the servers, by which many locks live: they share its deadline.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: i64,
    /// As negotiated.
    pub(crate) ttl: Duration,
    pub(crate) deadline: Deadline,
    pub(crate) places: Places,
    pub(crate) settings: Arc<Settings>,
    pub(crate) clock: Clock,
    /// Taken out at the session's end. The last one dropped tells the server to end it.
    client: Mutex<Option<Arc<Client>>>,
    states: StateWatcher,
    /// A node may have been left behind, so that the heart looks for it soon.
    pub(crate) untidy: AtomicBool,
}

/// How many nodes are read by one request.
const AT_ONCE: usize = 200;

impl Session {
    /// Begins a session on the current runtime, and keeps it alive there.
    pub(crate) async fn open(settings: Arc<Settings>, clock: Clock, ttl: Duration) -> Result<Arc<Self>> {
        let sent = clock.now();
        let client = settings.connect(ttl).await.map_err(from_zk)?;
        let granted = client.session_timeout();
        if granted < ttl {
            let message = format!(
                "the server keeps sessions for {granted:?} at most, less than the TTL; take a shorter one, or raise its \
                 maxSessionTimeout"
            );
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        let session = Arc::new(Self {
            id: client.session_id().0,
            ttl: granted,
            deadline: Deadline::new(valid_until(sent, granted)),
            places: Places::default(),
            settings,
            clock,
            states: client.state_watcher(),
            client: Mutex::new(Some(Arc::new(client))),
            untidy: AtomicBool::new(false),
        });
        tokio::spawn(heart::keep(Arc::downgrade(&session), granted, session.states.clone(), session.clock.clone()));
        Ok(session)
    }

    /// Whether it is worth asking on it.
    pub(crate) fn is_alive(&self) -> bool {
        locked(&self.client).is_some() && self.clock.now() < self.deadline.at()
    }

    pub(crate) fn client(&self) -> Result<Arc<Client>, Zk> {
        locked(&self.client).clone().ok_or(Zk::SessionExpired)
    }

    /// The session counts as ended from now on, and the server is told so, if it is there.
    pub(crate) fn end(&self, cause: LostCause) {
        self.deadline.end(cause);
        let client = locked(&self.client).take();
        drop(client);
    }

    /// Ends it and waits until the server has done so.
    pub(crate) async fn close(&self, give_up: Moment) -> Result<()> {
        self.end(LostCause::SessionEnded);
        let mut states = self.states.clone();
        let closed = self.clock.timeout_at(give_up, heart::terminal(&mut states)).await;
        closed.ok_or_else(|| {
            let message = "the server did not answer; the session lives on until its timeout";
            Error::new(ErrorKind::Unavailable, message).with_effect(Effect::Unknown)
        })
    }

    /// Resolves once it has ended or its deadline has passed.
    pub(crate) async fn ended(&self) {
        loop {
            let until = self.deadline.at();
            tokio::select! {
                _ = self.deadline.ended() => return,
                () = self.clock.sleep_until(until) => {
                    if self.clock.now() >= self.deadline.at() {
                        self.end(LostCause::Expired);
                        return;
                    }
                }
            }
        }
    }

    /// The answer to a request by `give_up`. The request was sent when its future was made, and dropping that takes
    /// nothing back.
    pub(crate) async fn ask<T>(&self, give_up: Moment, request: impl Future<Output = Result<T, Zk>>) -> Result<T, Zk> {
        let answer = self.clock.timeout_at(give_up, request).await.unwrap_or(Err(Zk::Timeout));
        if answer.as_ref().is_err_and(ends_session) {
            self.end(LostCause::SessionEnded);
        }
        answer
    }

    /// Sends a keep-alive and counts from its sending. It goes to the leader, other than a read: a server that is cut
    /// off from the others must not keep a client in the belief that its session lives.
    pub(crate) async fn keep_alive(&self, give_up: Moment) -> Result<(), Zk> {
        let client = self.client()?;
        let sent = self.clock.now();
        self.ask(give_up, client.sync(&self.settings.root)).await?;
        if self.deadline.extend(self.clock.now(), valid_until(sent, self.ttl)) {
            Ok(())
        } else {
            self.end(LostCause::Expired);
            Err(Zk::SessionExpired)
        }
    }

    /// Whether a third of the TTL is left, for a lock to be granted: with less, it is kept alive first (rule V5).
    pub(crate) async fn has_time(&self, give_up: Moment) -> bool {
        let enough = |session: &Self| session.deadline.at().since(session.clock.now()) >= session.ttl / 3;
        enough(self) || (self.keep_alive(give_up).await.is_ok() && enough(self))
    }

    /// The queue of a lock as this server has it, which knows of all that this session has written; `None` if there is
    /// no folder.
    pub(crate) async fn list(&self, folder: &str, give_up: Moment) -> Result<Option<Queue>> {
        let client = self.client().map_err(from_zk)?;
        read_folder(self.ask(give_up, client.get_children(folder)).await)
    }

    /// The queue of a lock as it was at some time after this call.
    pub(crate) async fn list_anew(&self, folder: &str, give_up: Moment) -> Result<Option<Queue>> {
        let client = self.client().map_err(from_zk)?;
        // In this order on one connection: the second waits for no answer to the first.
        let (sync, list) = (client.sync(folder), client.get_children(folder));
        let (synced, listed) = self.ask(give_up, async { Ok(join(sync, list).await) }).await.map_err(from_zk)?;
        synced.map_err(from_zk)?;
        read_folder(listed)
    }

    /// The keys of all locks that have a folder.
    pub(crate) async fn folders(&self, root: &str, give_up: Moment) -> Result<Vec<LockKey>> {
        let client = self.client().map_err(from_zk)?;
        let (sync, list) = (client.sync(root), client.list_children(root));
        let (synced, listed) = self.ask(give_up, async { Ok(join(sync, list).await) }).await.map_err(from_zk)?;
        synced.map_err(from_zk)?;
        match listed {
            Ok(names) => Ok(names.iter().filter_map(|name| LockKey::from_segment(name)).collect()),
            Err(Zk::NoNode) => Ok(Vec::new()),
            Err(error) => Err(from_zk(error)),
        }
    }

    /// What stands in these nodes, as far as they are there.
    pub(crate) async fn contents(
        &self,
        folder: &str,
        nodes: impl Iterator<Item = &Node>,
        give_up: Moment,
    ) -> Result<Contents, Zk> {
        let nodes: Vec<_> = nodes.map(|node| node.name.clone()).collect();
        let client = self.client()?;
        let mut contents = Contents::new();
        for names in nodes.chunks(AT_ONCE) {
            let mut reader = client.new_multi_reader();
            for name in names {
                reader.add_get_data(&format!("{folder}/{name}"))?;
            }
            let results = self.ask(give_up, reader.commit()).await?;
            for (name, result) in names.iter().zip(results) {
                if let MultiReadResult::Data { data, stat } = result {
                    contents.insert(name.clone(), (data, stat));
                }
            }
        }
        Ok(contents)
    }

    /// Makes the folder of a lock, which goes by itself when it has long been empty.
    pub(crate) async fn make_folder(&self, folder: &str, give_up: Moment) -> Result<(), Zk> {
        let (client, container) = (self.client()?, self.settings.options(CreateMode::Container));
        for root_is_missing in [false, true] {
            if root_is_missing {
                let persistent = self.settings.options(CreateMode::Persistent);
                self.ask(give_up, client.mkdir(&self.settings.root, &persistent)).await?;
            }
            match self.ask(give_up, client.create(folder, &[], &container)).await {
                Err(Zk::NoNode) if !root_is_missing => {}
                Ok(_) | Err(Zk::NodeExists) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The names of a place's nodes, of which there is one at the most, after a create whose reply was lost: `sync` and
    /// a list come after it on every way to the leader. Only nodes of this very session count.
    pub(crate) async fn search(&self, place: &Place, give_up: Moment) -> Result<Vec<(String, zookeeper_client::Stat)>> {
        let Some(queue) = self.list_anew(&place.folder, give_up).await? else { return Ok(Vec::new()) };
        let prefix = Node::prefix(&place.id, place.mode);
        let nodes = queue.nodes().iter().filter(|node| node.name.starts_with(&prefix));
        let contents = self.contents(&place.folder, nodes, give_up).await.map_err(from_zk)?;
        Ok(contents
            .into_iter()
            .filter(|(_, (_, stat))| stat.ephemeral_owner == self.id)
            .map(|(name, (_, stat))| (name, stat))
            .collect())
    }

    /// Removes a place's node, if there is one.
    pub(crate) async fn discard(&self, place: &Arc<Place>, give_up: Moment) -> Result<()> {
        let (name, sent) = place.leave();
        drop(place.take_next());
        let removed = match name {
            _ if !sent => Ok(()),
            Some(name) => self.remove(&place.path(&name), give_up).await.map(drop),
            None => self.discard_unknown(place, give_up).await,
        };
        match removed {
            Ok(()) => self.places.forget(&place.id),
            // What lived by the session ends with it.
            Err(_) if !self.is_alive() => {}
            Err(error) => {
                // Repeated by the same id; should nobody do that, the heart removes the node (rule R5).
                self.keep(place.clone());
                self.untidy.store(true, Ordering::Release);
                return Err(error.with_effect(Effect::Unknown));
            }
        }
        Ok(())
    }

    async fn discard_unknown(&self, place: &Arc<Place>, give_up: Moment) -> Result<()> {
        for (name, _) in self.search(place, give_up).await? {
            self.remove(&place.path(&name), give_up).await?;
        }
        Ok(())
    }

    /// Deletes a node by its full path. `false` if it was not there.
    pub(crate) async fn remove(&self, path: &str, give_up: Moment) -> Result<bool> {
        let client = self.client().map_err(from_zk)?;
        match self.ask(give_up, client.delete(path, None)).await {
            Ok(()) => Ok(true),
            Err(Zk::NoNode) => Ok(false),
            Err(error) => Err(from_zk(error)),
        }
    }

    /// Keeps a place for a call that ends with an error: it is repeated or withdrawn soon, or else swept away.
    pub(crate) fn keep(&self, place: Arc<Place>) {
        let until = self.clock.now() + self.ttl + drift(self.ttl) + 2 * self.settings.op_timeout;
        self.places.keep(place, until);
    }
}

pub(crate) fn read_folder(answer: Result<(Vec<String>, zookeeper_client::Stat), Zk>) -> Result<Option<Queue>> {
    match answer {
        Ok((_, stat)) if stat.ephemeral_owner != 0 => Err(not_a_folder()),
        Ok((children, _)) => Ok(Some(Queue::new(&children))),
        Err(Zk::NoNode) => Ok(None),
        Err(error) => Err(from_zk(error)),
    }
}
