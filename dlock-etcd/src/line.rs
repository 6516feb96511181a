//! [`Line`]: those of a client who wait for one lock.

use crate::locked;
use crate::names::Span;
use crate::queue::{Entry, Queue};
use crate::store::Store;
use crate::watches::{Watch, Watcher, Watches};
use dlock_core::{Cancel, LockInfo, LockKey, Mode, Moment, Standing};
use etcd_client::{Event, EventType, GetOptions, KeyValue};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// All lines of a client.
pub(crate) struct Lines {
    open: Open,
    runtime: Handle,
    store: Store,
    stop: Cancel,
}

type Open = Arc<Mutex<HashMap<LockKey, Weak<Line>>>>;

/// A line stays for so long without waiters: a new watch may hear nothing for 100 ms, the server's interval for those
/// that begin in the past.
const LINGER: Duration = Duration::from_secs(2);
/// Something between client and server may keep a stream open and pass nothing on: a waiter looks for itself so often.
const LOOK: Duration = Duration::from_secs(30);

/// Those of a client who wait for one lock: one watch of the lock's folder for all of them, by which each is judged
/// without a request (rule Q2).
pub(crate) struct Line {
    key: LockKey,
    folder: String,
    state: Mutex<State>,
    watch: OnceLock<Watch>,
    open: Open,
}

struct State {
    /// The lock as it was last heard of.
    queue: Queue,
    waiting: HashMap<Vec<u8>, Waiting>,
    /// Whether somebody came lately.
    used: bool,
}

/// One who waits.
struct Waiting {
    told: watch::Sender<News>,
    /// The revision at which its entry was there, or [`NOT_YET`].
    since: i64,
}

/// Later than every revision.
const NOT_YET: i64 = i64::MAX;

/// What a waiter hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Waits,
    /// It holds the lock since that revision, or before.
    Holds(i64),
    /// An earlier entry uses the lock in another way.
    Disagrees(Mode),
    /// Its entry is no longer there.
    Gone,
    /// Nothing is heard from the server.
    CutOff,
}

/// A waiter's place in the line; it leaves when it is dropped.
pub(crate) struct Place {
    pub(crate) line: Arc<Line>,
    key: Vec<u8>,
    news: watch::Receiver<News>,
}

impl Lines {
    pub(crate) fn new(store: Store, stop: Cancel) -> Self {
        Self { open: Open::default(), runtime: Handle::current(), store, stop }
    }

    /// Takes part in a line. `queue` is what the server answered when it took the entry `entry` in.
    pub(crate) fn join(&self, key: &LockKey, folder: &str, queue: Queue, entry: &[u8], watches: &Watches) -> Place {
        let line = {
            let mut open = locked(&self.open);
            match open.get(key).and_then(Weak::upgrade) {
                Some(line) => line,
                None => {
                    let line = Arc::new(Line {
                        key: key.clone(),
                        folder: folder.to_owned(),
                        state: Mutex::new(State { queue: queue.clone(), waiting: HashMap::new(), used: true }),
                        watch: OnceLock::new(),
                        open: self.open.clone(),
                    });
                    open.insert(key.clone(), Arc::downgrade(&line));
                    let watcher: Weak<Line> = Arc::downgrade(&line);
                    let from = queue.revision + 1;
                    let _ = line.watch.set(watches.watch(Span::prefixed(folder), from, Duration::ZERO, watcher));
                    self.runtime.spawn(line.clone().attend(self.store.clone(), self.stop.clone()));
                    line
                }
            }
        };
        let since = queue.revision;
        locked(&line.state).learn(queue);
        let place = line.expect(entry);
        place.is_there(since);
        place
    }

    /// A place for an entry that is about to be put, behind others of this client who wait for the lock already: their line will
    /// hear of it. `None` if there are none, or it would perhaps not wait.
    pub(crate) fn behind_others(&self, key: &LockKey, mode: Mode, entry: &[u8]) -> Option<Place> {
        let line = locked(&self.open).get(key).and_then(Weak::upgrade)?;
        let waits = {
            let state = locked(&line.state);
            !state.waiting.is_empty() && matches!(state.queue.standing_of_next(mode), Standing::Waits { .. })
        };
        waits.then(|| line.expect(entry))
    }
}

impl Line {
    /// Keeps the line until nobody has used it for a while, and looks now and then whether it hears all that happens.
    async fn attend(self: Arc<Self>, store: Store, stop: Cancel) {
        let attended = async {
            let mut look = store.clock.now() + LOOK;
            while self.is_used() {
                store.clock.sleep(LINGER).await;
                let now = store.clock.now();
                if now >= look {
                    look = now + LOOK;
                    self.look(&store, look).await;
                }
            }
        };
        tokio::select! {
            () = attended => {}
            () = stop.fired() => {}
        }
    }

    /// Asks the server how the lock is.
    pub(crate) async fn look(&self, store: &Store, give_up: Moment) {
        let read = store.read(&Span::prefixed(&self.folder), GetOptions::new(), give_up).await;
        if let Ok((revision, kvs)) = read {
            let mut state = locked(&self.state);
            state.learn(Queue::read(&self.folder, revision, &kvs));
            state.look_round();
        }
    }

    /// A place for an entry that may not be there yet.
    fn expect(self: Arc<Self>, entry: &[u8]) -> Place {
        let (told, news) = watch::channel(News::Waits);
        let mut state = locked(&self.state);
        state.used = true;
        state.waiting.insert(entry.to_vec(), Waiting { told, since: NOT_YET });
        drop(state);
        Place { line: self, key: entry.to_vec(), news }
    }

    /// Whether somebody waits, or came since this was last asked.
    fn is_used(&self) -> bool {
        let mut state = locked(&self.state);
        std::mem::take(&mut state.used) || !state.waiting.is_empty()
    }

    /// The lock as it was last heard of, and when.
    pub(crate) fn seen(&self) -> (i64, LockInfo) {
        let state = locked(&self.state);
        (state.queue.revision, state.queue.info(&self.key))
    }

    pub(crate) fn revision(&self) -> i64 {
        locked(&self.state).queue.revision
    }
}

impl State {
    /// Tells a waiter that its entry is gone.
    fn is_gone(&mut self, entry: &[u8]) {
        if let Some(waiting) = self.waiting.remove(entry) {
            waiting.told.send_replace(News::Gone);
        }
    }

    /// Tells a waiter whose entry was heard of if others use the lock in another way.
    fn has_come(&self, place: usize) {
        if let Some(waiting) = self.waiting.get(&self.queue.entries[place].key)
            && let Standing::Disagrees(other) = self.queue.standing(place)
        {
            waiting.told.send_replace(News::Disagrees(other));
        }
    }

    /// Takes an answer for true, unless it is older than what was heard since.
    fn learn(&mut self, queue: Queue) {
        if queue.revision > self.queue.revision {
            self.queue = queue;
        }
    }

    /// Tells all how they stand.
    fn look_round(&mut self) {
        let is_gone = |(key, waiting): &(&Vec<u8>, &Waiting)| {
            waiting.since <= self.queue.revision && self.queue.position(key).is_none()
        };
        let gone: Vec<_> = self.waiting.iter().filter(is_gone).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.is_gone(key));
        self.judge();
    }

    /// Tells those who hold the lock now.
    fn judge(&self) {
        for (index, entry) in self.queue.entries.iter().enumerate() {
            let Some(waiting) = self.waiting.get(&entry.key) else { continue };
            if self.queue.standing(index) != Standing::Holds {
                // So do all behind it.
                return;
            }
            waiting.told.send_replace(News::Holds(self.queue.revision));
        }
    }
}

impl Watcher for Line {
    fn is(&self, revision: i64, kvs: &[KeyValue]) {
        let mut state = locked(&self.state);
        if revision < state.queue.revision {
            // The server has lost its data, and nothing is still to be heard of.
            let known = state.waiting.values_mut().filter(|waiting| waiting.since != NOT_YET);
            known.for_each(|waiting| waiting.since = revision);
        }
        state.queue = Queue::read(&self.folder, revision, kvs);
        state.look_round();
    }

    fn changed(&self, events: &[Event]) {
        let mut state = locked(&self.state);
        let known = state.queue.revision;
        for event in events {
            let Some(kv) = event.kv().filter(|kv| kv.mod_revision() > known) else { continue };
            let queue = &mut state.queue;
            queue.revision = queue.revision.max(kv.mod_revision());
            let place = queue.position(kv.key());
            match (event.event_type(), place) {
                (EventType::Put, None) => {
                    queue.entries.push(Entry::read(self.folder.len(), kv));
                    state.has_come(state.queue.entries.len() - 1);
                }
                (EventType::Put, Some(place)) => queue.entries[place] = Entry::read(self.folder.len(), kv),
                (EventType::Delete, Some(place)) => {
                    queue.entries.remove(place);
                    state.is_gone(kv.key());
                }
                (EventType::Delete, None) => {}
            }
        }
        state.judge();
    }

    fn is_cut_off(&self) {
        for Waiting { told, .. } in locked(&self.state).waiting.values() {
            told.send_if_modified(|news| *news == News::Waits && std::mem::replace(news, News::CutOff) == News::Waits);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut open = locked(&self.open);
        if open.get(&self.key).is_some_and(|line| line.strong_count() == 0) {
            open.remove(&self.key);
        }
    }
}

impl Place {
    /// Its entry was there at the revision `since`.
    pub(crate) fn is_there(&self, since: i64) {
        let mut state = locked(&self.line.state);
        if let Some(waiting) = state.waiting.get_mut(&self.key) {
            waiting.since = since;
        }
        match state.queue.position(&self.key) {
            Some(place) => state.has_come(place),
            None if state.queue.revision >= since => state.is_gone(&self.key),
            // The line has still to hear of it.
            None => {}
        }
        state.judge();
    }

    /// The next news that is not that it waits.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn news(&mut self) -> News {
        let news = self.news.wait_for(|news| *news != News::Waits).await;
        // The line keeps the sender until it has said that the entry is gone.
        news.map_or(News::Gone, |news| *news)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = locked(&self.line.state);
        state.waiting.remove(&self.key);
        state.used = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(revision: i64, names: &[&str]) -> Queue {
        let entries = names.iter().map(|name| Entry::named(name, name.rsplit('-').next().unwrap().parse().unwrap()));
        Queue { revision, entries: entries.collect() }
    }

    fn state(queue: Queue, waiting: &[&str]) -> (State, Vec<watch::Receiver<News>>) {
        let (told, news): (Vec<_>, Vec<_>) = waiting.iter().map(|_| watch::channel(News::Waits)).unzip();
        let waiting = waiting
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .zip(told.into_iter().map(|told| Waiting { told, since: queue.revision }));
        let waiting = waiting.collect();
        (State { queue, waiting, used: false }, news)
    }

    fn told(news: &[watch::Receiver<News>]) -> Vec<News> {
        news.iter().map(|news| *news.borrow()).collect()
    }

    #[test]
    fn those_at_the_front_hold_and_those_who_are_gone_are_told() {
        let (mut state, news) = state(queue(9, &["x-1", "s-2", "s-3", "x-4", "s-5"]), &["s-2", "s-3", "x-4", "s-5"]);
        state.look_round();
        assert_eq!(told(&news), [News::Waits; 4]);
        state.learn(queue(10, &["s-2", "s-3", "s-5"]));
        state.look_round();
        assert_eq!(told(&news), [News::Holds(10), News::Holds(10), News::Gone, News::Holds(10)]);
    }

    #[test]
    fn an_older_answer_says_nothing_new() {
        let (mut state, news) = state(queue(9, &["x-1", "x-2"]), &["x-2"]);
        state.learn(queue(8, &["x-2"]));
        state.look_round();
        assert_eq!(told(&news), [News::Waits]);
    }

    #[test]
    fn each_place_of_a_permit_lock_is_given() {
        let (mut state, news) = state(queue(9, &["p2-1", "p2-2", "p2-3", "p2-4"]), &["p2-3", "p2-4"]);
        state.learn(queue(10, &["p2-1", "p2-3", "p2-4"]));
        state.look_round();
        assert_eq!(told(&news), [News::Holds(10), News::Waits]);
    }
}
