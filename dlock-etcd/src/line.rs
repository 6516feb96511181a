//! [`Line`]: those of a client who wait for one lock.

use crate::locked;
use crate::names::Span;
use crate::queue::{Entry, Queue};
use crate::store::Store;
use crate::watches::{Watch, Watcher, Watches};
use dlock_core::{Cancel, LockInfo, LockKey, Mode, Moment, Standing};
use etcd_client::{Event, EventType, GetOptions, KeyValue};
use std::collections::{HashMap, HashSet};
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
    heard: Heard,
    waiting: HashMap<Vec<u8>, Waiting>,
    /// Whether somebody came lately.
    used: bool,
}

/// What a request to the server that is sent now can't be answered with less than, unless the server has lost data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The latest revision.
    revision: i64,
    /// How often the server was seen to have lost data.
    losses: u64,
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
    /// What was heard before its entry was put.
    heard: Heard,
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
                        state: Mutex::new(State {
                            heard: Heard { revision: queue.revision, losses: 0 },
                            queue: queue.clone(),
                            waiting: HashMap::new(),
                            used: true,
                        }),
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
        {
            let mut state = locked(&line.state);
            state.learn(queue);
            // What it shows to be gone will not be told again.
            state.tell_gone();
        }
        // It was put before this place was made: what is heard meanwhile may be later.
        let mut place = line.expect(entry);
        place.heard = Heard::default();
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
        let heard = self.heard();
        let read = store.read(&Span::prefixed(&self.folder), GetOptions::new(), give_up).await;
        if let Ok((revision, kvs)) = read {
            locked(&self.state).is(heard, Queue::read(&self.folder, revision, &kvs));
        }
    }

    /// A place for an entry that may not be there yet.
    fn expect(self: Arc<Self>, entry: &[u8]) -> Place {
        let (told, news) = watch::channel(News::Waits);
        let mut state = locked(&self.state);
        state.used = true;
        state.waiting.insert(entry.to_vec(), Waiting { told, since: NOT_YET });
        let heard = state.heard;
        drop(state);
        Place { line: self, key: entry.to_vec(), news, heard }
    }

    /// Whether somebody waits, or came since this was last asked.
    fn is_used(&self) -> bool {
        let mut state = locked(&self.state);
        std::mem::take(&mut state.used) || !state.waiting.is_empty()
    }

    /// The lock as it was last heard of.
    pub(crate) fn seen(&self) -> LockInfo {
        locked(&self.state).queue.info(&self.key)
    }

    /// When that was.
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
        if queue.revision >= self.queue.revision {
            self.heard.revision = self.heard.revision.max(queue.revision);
            self.queue = queue;
        }
    }

    /// What the server answers to a question that was sent when `heard` was known.
    fn is(&mut self, heard: Heard, queue: Queue) {
        self.shows(heard, queue.revision);
        self.learn(queue);
        self.look_round();
    }

    /// The server has answered with a revision to what was sent when `heard` was known: if it is an earlier one, it has lost data,
    /// and what was heard of after that is there no more.
    fn shows(&mut self, heard: Heard, revision: i64) {
        if revision >= heard.revision || heard.losses != self.heard.losses {
            return;
        }
        self.heard = Heard { revision, losses: heard.losses + 1 };
        self.queue.revision = revision;
        for waiting in self.waiting.values_mut().filter(|waiting| waiting.since != NOT_YET) {
            waiting.since = waiting.since.min(revision);
        }
    }

    /// Tells the waiters whose entries are no longer there.
    fn tell_gone(&mut self) {
        let there: HashSet<&[u8]> = self.queue.entries.iter().map(|entry| &*entry.key).collect();
        let is_gone = |(key, waiting): &(&Vec<u8>, &Waiting)| {
            waiting.since <= self.queue.revision && !there.contains(key.as_slice())
        };
        let gone: Vec<_> = self.waiting.iter().filter(is_gone).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.is_gone(key));
    }

    /// Tells all how they stand.
    fn look_round(&mut self) {
        self.tell_gone();
        (0..self.queue.entries.len()).for_each(|place| self.has_come(place));
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
    fn heard(&self) -> Heard {
        locked(&self.state).heard
    }

    fn is(&self, heard: Heard, revision: i64, kvs: &[KeyValue]) {
        locked(&self.state).is(heard, Queue::read(&self.folder, revision, kvs));
    }

    fn changed(&self, events: &[Event]) {
        let mut state = locked(&self.state);
        let known = state.queue.revision;
        for event in events {
            let Some(kv) = event.kv().filter(|kv| kv.mod_revision() > known) else { continue };
            state.heard.revision = state.heard.revision.max(kv.mod_revision());
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
        // The entry was put after that: it is not among what was lost, but later than it.
        state.shows(self.heard, since - 1);
        state.heard.revision = state.heard.revision.max(since);
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
        let heard = Heard { revision: queue.revision, losses: 0 };
        (State { queue, heard, waiting, used: false }, news)
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
    fn an_answer_older_than_what_was_heard_before_its_question_is_that_of_lost_data() {
        let (mut state, news) = state(queue(9, &["x-1", "x-2", "x-8"]), &["x-2", "x-8"]);
        let before = state.heard;
        state.learn(queue(12, &["x-1", "x-2", "x-8"]));
        state.is(before, queue(10, &["x-1", "x-2"]));
        assert_eq!((told(&news), state.queue.revision), (vec![News::Waits; 2], 12), "overtaken by a later one");
        let before = state.heard;
        state.is(before, queue(5, &["x-1", "x-2"]));
        assert_eq!((told(&news), state.heard.revision), (vec![News::Waits, News::Gone], 5));
        state.is(before, queue(6, &["x-2"]));
        assert_eq!(told(&news), [News::Holds(6), News::Gone], "seen once already");
    }

    #[test]
    fn an_entry_that_is_not_yet_heard_of_is_not_gone_and_one_of_lost_data_is() {
        let (mut state, news) = state(queue(9, &["x-1"]), &["x-20"]);
        state.waiting.get_mut(b"x-20".as_slice()).unwrap().since = 20;
        state.heard.revision = 20;
        state.is(Heard { revision: 9, losses: 0 }, queue(15, &["x-1"]));
        assert_eq!(told(&news), [News::Waits], "asked before it was put");
        state.is(state.heard, queue(16, &["x-1"]));
        assert_eq!(told(&news), [News::Gone], "asked after that");
    }

    #[test]
    fn who_disagrees_is_told_however_its_entry_is_heard_of() {
        let (mut state, news) = state(queue(9, &["x-1"]), &["x-4"]);
        state.waiting.get_mut(b"x-4".as_slice()).unwrap().since = NOT_YET;
        state.is(state.heard, queue(12, &["p2-3", "x-4"]));
        assert!(matches!(told(&news)[..], [News::Disagrees(Mode::Permit { .. })]));
    }

    #[test]
    fn each_place_of_a_permit_lock_is_given() {
        let (mut state, news) = state(queue(9, &["p2-1", "p2-2", "p2-3", "p2-4"]), &["p2-3", "p2-4"]);
        state.learn(queue(10, &["p2-1", "p2-3", "p2-4"]));
        state.look_round();
        assert_eq!(told(&news), [News::Holds(10), News::Waits]);
    }
}
