//! [`Connection`]: the client of etcd, made anew when it has fallen silent.

use dlock_core::{Clock, Moment};
use etcd_client::{Client, ConnectOptions, Error as EtcdError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The client of etcd, made anew when it has fallen silent. What lies between client and server may drop a connection and tell
/// neither: until its pings had stayed unanswered, everything would wait for it.
pub(crate) struct Connection {
    endpoints: Vec<String>,
    options: ConnectOptions,
    clock: Clock,
    runtime: Handle,
    /// How long a connection attempt, and an answer, may take.
    op_timeout: Duration,
    current: watch::Sender<Made>,
    is_being_made: AtomicBool,
    /// When the last answer came.
    heard: AtomicU64,
    /// When the first question was sent that has had no answer, and none has come since.
    unanswered: AtomicU64,
}

/// A client, and when it was made.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) client: Client,
    at: Moment,
}

/// A question to the server. Dropped without [`Asked::got_answer`], it has the client made anew if that was silent for longer
/// than its patience: one caller that does not wait is no reason to give up a connection by which others hold locks.
pub(crate) struct Asked<'a> {
    connection: &'a Arc<Connection>,
    sent: Moment,
    patience: Duration,
    answered: bool,
}

/// No question is without an answer.
const NONE: u64 = u64::MAX;
/// Silence so short is none.
const SHORTEST: Duration = Duration::from_millis(50);

impl Connection {
    /// Connects. The connections are made when they are first used, but for the one by which a user is made known.
    pub(crate) async fn open(
        endpoints: Vec<String>,
        options: ConnectOptions,
        op_timeout: Duration,
        clock: Clock,
    ) -> Result<Arc<Self>, EtcdError> {
        let at = clock.now();
        let client = Client::connect(&endpoints, Some(options.clone())).await?;
        Ok(Arc::new(Self {
            endpoints,
            options,
            runtime: Handle::current(),
            op_timeout,
            current: watch::Sender::new(Made { client, at }),
            is_being_made: AtomicBool::new(false),
            heard: AtomicU64::new(clock.now().as_nanos()),
            unanswered: AtomicU64::new(NONE),
            clock,
        }))
    }

    pub(crate) fn client(&self) -> Client {
        self.current.borrow().client.clone()
    }

    /// The client, with which [`Connection::renewed`] compares.
    pub(crate) fn made(&self) -> Made {
        self.current.borrow().clone()
    }

    /// Resolves when the client is another than this.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn renewed(&self, made: &Made) {
        // The sender lives in `self`.
        let _ = self.current.subscribe().wait_for(|now| now.at != made.at).await;
    }

    /// A question is being sent, which has an answer within `patience`, or the client is silent.
    pub(crate) fn asks(self: &Arc<Self>, patience: Duration) -> Asked<'_> {
        Asked { connection: self, sent: self.clock.now(), patience: patience.max(SHORTEST), answered: false }
    }

    /// A question that was sent then has no answer.
    fn got_none(self: &Arc<Self>, sent: Moment, patience: Duration) {
        let (heard, made) = (self.heard.load(Ordering::Acquire), self.current.borrow().at);
        if heard >= sent.as_nanos() || made >= sent {
            return;
        }
        let first = Moment::from_nanos(self.unanswered.fetch_min(sent.as_nanos(), Ordering::AcqRel)).min(sent);
        let silent = self.clock.now().since(first) >= patience;
        if silent && !self.is_being_made.swap(true, Ordering::AcqRel) {
            self.make_anew();
        }
    }

    fn make_anew(self: &Arc<Self>) {
        tracing::debug!("the server is silent; connecting anew");
        let this = self.clone();
        self.runtime.spawn(async move {
            let connected = Client::connect(&this.endpoints, Some(this.options.clone()));
            match this.clock.timeout_at(this.clock.now() + this.op_timeout, connected).await {
                Some(Ok(client)) => {
                    this.unanswered.store(NONE, Ordering::Release);
                    this.current.send_replace(Made { client, at: this.clock.now() });
                }
                Some(Err(error)) => tracing::debug!(%error, "could not connect anew"),
                None => tracing::debug!("could not connect anew in time"),
            }
            this.is_being_made.store(false, Ordering::Release);
        });
    }
}

impl Asked<'_> {
    pub(crate) fn got_answer(mut self) {
        self.answered = true;
        self.connection.heard.fetch_max(self.connection.clock.now().as_nanos(), Ordering::AcqRel);
        self.connection.unanswered.store(NONE, Ordering::Release);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.got_none(self.sent, self.patience);
        }
    }
}
