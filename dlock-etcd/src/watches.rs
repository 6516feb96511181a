//! [`Watches`]: all that a client watches, on one stream.

use crate::connection::Made;
use crate::error::from_etcd;
use crate::line::Heard;
use crate::locked;
use crate::names::{Names, Span};
use crate::store::{Store, get};
use dlock_core::{Cancel, Error, ErrorKind, Moment, Result};
use etcd_client::{Event, KeyValue, Txn, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Hears of changes.
pub(crate) trait Watcher: Send + Sync {
    /// What was heard so far: asked before what is watched is read anew.
    fn heard(&self) -> Heard {
        Heard::default()
    }
    /// What is watched, as it was at a revision: told when the stream was made anew.
    fn is(&self, heard: Heard, revision: i64, kvs: &[KeyValue]);
    /// What changed since, in order.
    fn changed(&self, events: &[Event]);
    /// Nothing was heard for longer than an operation may take.
    fn is_cut_off(&self) {}
}

/// All that a client watches: any number of spans of keys, on one stream, which is made anew when it breaks.
pub(crate) struct Watches(Arc<Shared>);

struct Shared {
    store: Store,
    names: Names,
    op_timeout: Duration,
    state: Mutex<State>,
    /// Rings when there is something to watch and no stream.
    begin: Notify,
}

#[derive(Default)]
struct State {
    watched: HashMap<i64, Watched>,
    last_id: i64,
    /// To the stream, while there is one.
    orders: Option<mpsc::UnboundedSender<Order>>,
    /// Of which the server is told when their time has come, in its order; those that were forgotten too.
    later: VecDeque<(i64, Moment)>,
}

struct Watched {
    span: Span,
    /// The first revision that is not yet known.
    from: i64,
    /// Whether the server was told; then it may have been told more than `from` says.
    told: bool,
    watcher: Weak<dyn Watcher>,
}

enum Order {
    Watch(i64),
    /// Something is to be watched later, and nothing was before.
    Later,
    Forget(i64),
}

/// Ends when it is dropped.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    id: i64,
}

/// A stream that lasted so long was a good one.
const LASTING: Duration = Duration::from_secs(1);

/// How many spans are read anew by one request.
const CHUNK: usize = 64;

impl Watches {
    pub(crate) fn new(store: Store, names: Names, op_timeout: Duration, stop: Cancel) -> Self {
        let shared = Arc::new(Shared { store, names, op_timeout, state: Mutex::default(), begin: Notify::new() });
        tokio::spawn({
            let shared = shared.clone();
            async move {
                tokio::select! {
                    () = stop.fired() => {}
                    () = shared.run() => {}
                }
                locked(&shared.state).orders = None;
            }
        });
        Self(shared)
    }

    /// Watches a span whose state is known before the revision `from`. The server is told after `delay`: what is
    /// forgotten before costs nothing, not even the wake-up of a task, and what happens until then is heard then. All delays
    /// are the same, or none.
    pub(crate) fn watch(&self, span: Span, from: i64, delay: Duration, watcher: Weak<dyn Watcher>) -> Watch {
        let mut guard = locked(&self.0.state);
        let state = &mut *guard;
        state.last_id += 1;
        let id = state.last_id;
        state.watched.insert(id, Watched { span, from, told: false, watcher });
        // A closed channel is that of a stream that broke just now: the next one is told all.
        match &state.orders {
            Some(orders) if delay.is_zero() => drop(orders.send(Order::Watch(id))),
            Some(orders) => {
                if state.later.is_empty() {
                    let _ = orders.send(Order::Later);
                }
                state.later.push_back((id, self.0.store.clock.now() + delay));
            }
            None => self.0.begin.notify_one(),
        }
        drop(guard);
        Watch { shared: self.0.clone(), id }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = locked(&self.shared.state);
        let watched = state.watched.remove(&self.id);
        if let (Some(Watched { told: true, .. }), Some(orders)) = (watched, &state.orders) {
            let _ = orders.send(Order::Forget(self.id));
        }
    }
}

impl Shared {
    async fn run(&self) {
        let clock = &self.store.clock;
        let mut pauses = dlock_core::backoff();
        let mut heard = clock.now();
        loop {
            if locked(&self.state).watched.is_empty() {
                self.begin.notified().await;
                heard = clock.now();
            }
            let error = match self.open().await {
                Ok((made, (requests, responses))) => {
                    let begun = clock.now();
                    let error = tokio::select! {
                        error = self.serve(requests, responses) => error,
                        () = self.store.connection.renewed(&made) => {
                            Error::new(ErrorKind::Unavailable, "the connection was made anew")
                        }
                    };
                    if clock.now().since(begun) > LASTING {
                        heard = clock.now();
                        pauses = dlock_core::backoff();
                    }
                    error
                }
                Err(error) => error,
            };
            locked(&self.state).orders = None;
            tracing::debug!(error = %error.chain(), "the watches have no stream; making it anew");
            if clock.now().since(heard) >= self.op_timeout {
                for (_, watcher) in self.watchers() {
                    watcher.is_cut_off();
                }
            }
            clock.sleep(pauses.next().unwrap_or_default()).await;
        }
    }

    fn watchers(&self) -> Vec<(i64, Arc<dyn Watcher>)> {
        let state = locked(&self.state);
        state.watched.iter().filter_map(|(id, watched)| Some((*id, watched.watcher.upgrade()?))).collect()
    }

    /// Opens a stream, with the watch of a key that never is: what is watched comes and goes.
    async fn open(&self) -> Result<(Made, (WatchRequestSender, WatchResponseStream))> {
        let (made, give_up) = (self.store.connection.made(), self.store.clock.now() + self.op_timeout);
        let mut client = Store::watch_client(&made);
        let asked = self.store.asks();
        let opened = self.store.clock.timeout_at(give_up, client.watch(self.names.withdrawn(0), None)).await;
        let opened = opened.ok_or_else(crate::error::no_answer)?;
        asked.got_answer();
        Ok((made, opened.map_err(from_etcd)?.split()))
    }

    /// Tells the server what is watched, and the watchers what it says, until the stream ends.
    async fn serve(&self, requests: WatchRequestSender, mut responses: WatchResponseStream) -> Error {
        let (orders, to_do) = mpsc::unbounded_channel();
        let lost: Vec<_> = {
            // From now on what is new comes as an order; what is there already is told here.
            let mut state = locked(&self.state);
            state.later.clear();
            let (mut lost, mut new) = (Vec::new(), Vec::new());
            for (id, watched) in &mut state.watched {
                if std::mem::take(&mut watched.told) { lost.push(*id) } else { new.push(*id) }
            }
            for id in new {
                let _ = orders.send(Order::Watch(id));
            }
            state.orders = Some(orders.clone());
            lost
        };
        let read_anew = async {
            match self.read_anew(lost, &orders).await {
                Ok(()) => std::future::pending().await,
                Err(error) => error,
            }
        };
        tokio::select! {
            error = read_anew => error,
            error = self.tell(requests, to_do) => error,
            error = self.hear(&mut responses) => error,
        }
    }

    /// Reads again what the broken stream may have missed (rule V5), and watches from there.
    async fn read_anew(&self, lost: Vec<i64>, orders: &mpsc::UnboundedSender<Order>) -> Result<()> {
        let result = self.read_chunks(&lost, orders).await;
        if result.is_err() {
            // Those that were not reached are to be read next time.
            let mut state = locked(&self.state);
            for id in lost {
                if let Some(watched) = state.watched.get_mut(&id) {
                    watched.told = true;
                }
            }
        }
        result
    }

    async fn read_chunks(&self, lost: &[i64], orders: &mpsc::UnboundedSender<Order>) -> Result<()> {
        for ids in lost.chunks(CHUNK) {
            let known: Vec<_> = {
                let state = locked(&self.state);
                ids.iter()
                    .filter_map(|id| {
                        let watched = state.watched.get(id)?;
                        Some((*id, watched.span.clone(), watched.watcher.upgrade()?))
                    })
                    .collect()
            };
            let gets: Vec<_> = known.iter().map(|(_, span, _)| get(span)).collect();
            let heard: Vec<_> = known.iter().map(|(_, _, watcher)| watcher.heard()).collect();
            let now = self.store.clock.now();
            let Some(reply) = self.store.txn(Txn::new().and_then(gets), now + self.op_timeout).await? else { continue };
            for (((id, _, watcher), heard), kvs) in known.into_iter().zip(heard).zip(&reply.read) {
                watcher.is(heard, reply.revision, kvs);
                if let Some(watched) = locked(&self.state).watched.get_mut(&id) {
                    watched.from = reply.revision + 1;
                    let _ = orders.send(Order::Watch(id));
                }
            }
        }
        Ok(())
    }

    /// Sends what is ordered, each watch when its time has come.
    async fn tell(&self, mut requests: WatchRequestSender, mut orders: mpsc::UnboundedReceiver<Order>) -> Error {
        let mut next = None;
        loop {
            let order = tokio::select! {
                biased;
                () = self.store.clock.sleep_until(next.unwrap_or(Moment::MAX)), if next.is_some() => Order::Later,
                order = orders.recv() => match order {
                    Some(order) => order,
                    None => return Error::new(ErrorKind::Closed, "the client was closed"),
                },
            };
            let due = match order {
                Order::Watch(id) => vec![id],
                Order::Later => {
                    let (due, at) = self.due();
                    next = at;
                    due
                }
                Order::Forget(id) => match requests.cancel(id).await {
                    Ok(()) => continue,
                    Err(error) => return from_etcd(error),
                },
            };
            for id in due {
                if let Err(error) = self.tell_one(&mut requests, id).await {
                    return error;
                }
            }
        }
    }

    /// What is to be watched by now, and when there will be more.
    fn due(&self) -> (Vec<i64>, Option<Moment>) {
        let (mut guard, now, mut due) = (locked(&self.state), self.store.clock.now(), Vec::new());
        let state = &mut *guard;
        while let Some((id, at)) = state.later.front() {
            if state.watched.contains_key(id) {
                if *at > now {
                    return (due, Some(*at));
                }
                due.push(*id);
            }
            state.later.pop_front();
        }
        (due, None)
    }

    async fn tell_one(&self, requests: &mut WatchRequestSender, id: i64) -> Result<()> {
        let (span, from) = {
            let mut state = locked(&self.state);
            let Some(watched) = state.watched.get_mut(&id).filter(|watched| !watched.told) else { return Ok(()) };
            watched.told = true;
            (watched.span.clone(), watched.from)
        };
        let options = WatchOptions::new().with_range(span.end).with_start_revision(from).with_watch_id(id);
        requests.watch(span.start, Some(options)).await.map_err(from_etcd)
    }

    async fn hear(&self, responses: &mut WatchResponseStream) -> Error {
        loop {
            let response = match responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Error::new(ErrorKind::Unavailable, "the server ended the stream of watches"),
                Err(error) => return from_etcd(error),
            };
            if response.canceled() && response.created() {
                // It may not be read, or the token with which the stream was opened is no longer good. Such an answer need
                // not name its watch.
                return ended(&response);
            }
            let watcher = match locked(&self.state).watched.get(&response.watch_id()) {
                // Forgotten meanwhile.
                None => continue,
                Some(watched) => watched.watcher.clone(),
            };
            if response.canceled() {
                // What was to be heard was compacted.
                return ended(&response);
            }
            if let Some(watcher) = watcher.upgrade().filter(|_| !response.events().is_empty()) {
                watcher.changed(response.events());
            }
        }
    }
}

fn ended(response: &WatchResponse) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the server ended a watch: {}", response.cancel_reason()))
}
