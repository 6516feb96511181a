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
}

/// A client, and when it was made.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) client: Client,
    at: Moment,
}

/// A question to the server. Dropped without [`Asked::got_answer`] after its patience, it has the client made anew.
pub(crate) struct Asked<'a> {
    connection: &'a Arc<Connection>,
    sent: Moment,
    patience: Duration,
    answered: bool,
}

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

    /// A question that was sent then has no answer: if nothing else was heard since either, the client is made anew.
    fn is_silent(self: &Arc<Self>, sent: Moment) {
        let heard = Moment::from_nanos(self.heard.load(Ordering::Acquire));
        if heard >= sent || self.current.borrow().at >= sent || self.is_being_made.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::debug!("the server is silent; connecting anew");
        let this = self.clone();
        self.runtime.spawn(async move {
            let connected = Client::connect(&this.endpoints, Some(this.options.clone()));
            match this.clock.timeout_at(this.clock.now() + this.op_timeout, connected).await {
                Some(Ok(client)) => drop(this.current.send_replace(Made { client, at: this.clock.now() })),
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
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered && self.connection.clock.now().since(self.sent) >= self.patience {
            self.connection.is_silent(self.sent);
        }
    }
}
