//! [`Lock`]: one key and how to hold it.

use crate::acquire::{self, Acquire, TryAcquire};
use crate::client::{Client, Terms};
use crate::{Error, ErrorKind, Held, LockGuard, Mode, Request, Result, Ttl};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// One key and how to hold it: made by [`Locks::lock`](crate::Locks::lock), set up by the methods that return it, and
/// used by [`acquire`](Lock::acquire), [`try_acquire`](Lock::try_acquire) or [`run`](Lock::run) as often as you like.
///
/// What is set up wrongly (a key, a TTL) is reported when it is used.
#[derive(Clone, Debug)]
#[must_use = "a lock is not held before it is acquired"]
pub struct Lock {
    pub(crate) client: Arc<Client>,
    key: String,
    mode: Wanted,
    ttl: Option<Duration>,
    label: Option<String>,
    margin: Duration,
    max_hold: Option<Duration>,
    pub(crate) wait_at_most: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    Exclusive,
    Shared,
    Permits(u32),
}

impl Lock {
    pub(crate) fn new(client: Arc<Client>, key: String) -> Self {
        Self {
            client,
            key,
            mode: Wanted::Exclusive,
            ttl: None,
            label: None,
            margin: Duration::ZERO,
            max_hold: None,
            wait_at_most: None,
        }
    }

    /// Together with other shared holders, and with no exclusive one beside them.
    pub fn shared(mut self) -> Self {
        self.mode = Wanted::Shared;
        self
    }

    /// Together with at most `limit - 1` others. All callers must give the same limit.
    pub fn permits(mut self, limit: u32) -> Self {
        self.mode = Wanted::Permits(limit);
        self
    }

    /// How long the store keeps the lock when nobody renews it: after a crash others wait as long. 10 ms to 24 h; some
    /// stores raise it, and [`Held::ttl`] says to what. The client's unless set here; that is 30 s by default.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Who that is, for the people who look at the lock. The client's unless set here; that is host, pid and program by
    /// default. A longer one is cut to [`Request::MAX_LABEL_BYTES`] bytes.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// How long [`acquire`](Lock::acquire) waits while others hold the lock; without end unless set here.
    pub fn wait_at_most(mut self, limit: Duration) -> Self {
        self.wait_at_most = Some(limit);
        self
    }

    /// Counts the lock as lost this long before its deadline, so that there is time to stop. At most a third of the TTL.
    pub fn margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }

    /// Counts the lock as lost, with the cause [`MaxHold`](crate::LostCause::MaxHold), once it has been held for so long,
    /// and renews it no more. The store frees it when the guard is dropped, and else within one TTL.
    pub fn max_hold(mut self, limit: Duration) -> Self {
        self.max_hold = Some(limit);
        self
    }

    /// The TTL that is asked for: the one that is set up, raised to what the store can do. etcd and ZooKeeper may grant a longer
    /// one, which [`Held::ttl`] tells.
    ///
    /// # Errors
    /// As [`acquire`](Lock::acquire), for what was set up wrongly.
    pub fn granted_ttl(&self) -> Result<Duration> {
        let asked = self.request().map_err(|error| error.during("acquire", None));
        asked.map(|(request, _)| request.ttl().get())
    }

    /// Waits until the lock is held.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped at any moment, it leaves no lock and no place in the queue behind. What is under way in the
    /// store ends in the background, on the client's runtime. Never polled, it sends nothing. Once begun it must be polled on
    /// or dropped: kept aside (as `&mut acquire` while another arm of a `select!` works) it may hold up other calls of this
    /// client for the same key, with `local_queue` for as long as it is kept.
    ///
    /// # Errors
    /// - [`TimedOut`](ErrorKind::TimedOut): others held the lock for as long as [`wait_at_most`](Lock::wait_at_most)
    ///   allows; [`Error::lock_info`] says who.
    /// - [`Unavailable`](ErrorKind::Unavailable): the store was not reached within `op_timeout`; or, once this call
    ///   waited in the store's queue, not for as long as `outage`. With `wait_at_most` it waits to the end all the same, and
    ///   says so if the store was not reached for the last `op_timeout` of it.
    /// - [`InvalidKey`](ErrorKind::InvalidKey), [`InvalidConfig`](ErrorKind::InvalidConfig),
    ///   [`Unsupported`](ErrorKind::Unsupported): what was set up can't be had.
    /// - [`Unauthorized`](ErrorKind::Unauthorized), [`Corrupt`](ErrorKind::Corrupt), [`Closed`](ErrorKind::Closed).
    pub fn acquire(&self) -> Acquire {
        acquire::acquire(self.clone())
    }

    /// Holds the lock if it is free now, and else answers `None`.
    ///
    /// # Cancel safety
    /// As [`acquire`](Lock::acquire).
    ///
    /// # Errors
    /// As [`acquire`](Lock::acquire), without `TimedOut`. [`Unavailable`](ErrorKind::Unavailable) when the store did not
    /// answer within `op_timeout`.
    pub fn try_acquire(&self) -> TryAcquire {
        acquire::try_acquire(self.clone())
    }

    /// Runs `body` while the lock is held: waits for it, drops `body` if the lock is lost, and gives the lock up.
    ///
    /// # Cancel safety
    /// Dropped, it drops `body` and gives the lock up in the background.
    ///
    /// # Errors
    /// As [`acquire`](Lock::acquire), and [`LeaseLost`](ErrorKind::LeaseLost) when the lock was lost before `body` ended:
    /// then `body` was dropped, or its result is not to be trusted.
    pub fn run<F, Fut, T>(&self, body: F) -> impl Future<Output = Result<T>> + use<F, Fut, T>
    where
        F: FnOnce(Held) -> Fut,
        Fut: Future<Output = T>,
    {
        let acquire = self.acquire();
        async move { under(acquire.await?, body).await }
    }

    /// Runs `body` if the lock is free now, as [`run`](Lock::run) does, and else answers `None`: for what must happen once, and
    /// not on each machine after the other.
    ///
    /// # Cancel safety
    /// As [`run`](Lock::run).
    ///
    /// # Errors
    /// As [`run`](Lock::run), without `TimedOut`.
    pub fn try_run<F, Fut, T>(&self, body: F) -> impl Future<Output = Result<Option<T>>> + use<F, Fut, T>
    where
        F: FnOnce(Held) -> Fut,
        Fut: Future<Output = T>,
    {
        let acquire = self.try_acquire();
        async move {
            match acquire.await? {
                Some(guard) => under(guard, body).await.map(Some),
                None => Ok(None),
            }
        }
    }

    /// The request that is sent, checked against what the backend can do.
    pub(crate) fn request(&self) -> Result<(Request, Terms)> {
        let capabilities = self.client.capabilities();
        let key = self.client.key(&self.key)?;
        let unsupported = |what| {
            let error = Error::new(ErrorKind::Unsupported, format!("this store has no {what} locks"));
            Err(self.client.in_context(error, "acquire", &key))
        };
        let mode = match self.mode {
            Wanted::Exclusive => Mode::Exclusive,
            Wanted::Shared if !capabilities.shared => return unsupported("shared"),
            Wanted::Permits(_) if !capabilities.permits => return unsupported("permit"),
            Wanted::Shared => Mode::Shared,
            Wanted::Permits(limit) => Mode::Permit {
                limit: NonZeroU32::new(limit).ok_or_else(|| {
                    Error::new(ErrorKind::InvalidConfig, "a permit lock with 0 permits is never free; allow at least 1")
                })?,
            },
        };
        let settings = self.client.settings();
        let ttl = Ttl::new(self.ttl.unwrap_or(settings.ttl))?;
        if ttl.get() > capabilities.ttl.max {
            let most = humantime::format_duration(capabilities.ttl.max);
            let error = Error::new(
                ErrorKind::InvalidConfig,
                format!("a TTL of {ttl} is too long for this store; {most} is the most"),
            );
            return Err(self.client.in_context(error, "acquire", &key));
        }
        let ttl = Ttl::new(ttl.get().max(capabilities.ttl.min))?.rounded_up_to(capabilities.ttl.step);
        if self.margin > ttl.get() / 3 {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!(
                    "a margin of {} is more than a third of the TTL of {ttl}; take a longer TTL",
                    humantime::format_duration(self.margin)
                ),
            ));
        }
        let label = self.label.as_deref().map_or_else(|| settings.label.clone(), Request::short_label);
        let request = Request::new(key)
            .with_mode(mode)
            .with_ttl(ttl)
            .with_short_label(label)
            .with_op_timeout(settings.op_timeout);
        let terms = Terms { asked: self.client.clock().now(), margin: self.margin, max_hold: self.max_hold };
        Ok((request, terms))
    }
}

/// Runs `body` while the guard holds, and gives it up.
async fn under<F, Fut, T>(guard: LockGuard, body: F) -> Result<T>
where
    F: FnOnce(Held) -> Fut,
    Fut: Future<Output = T>,
{
    let lost = guard.lost();
    let body = body(guard.held());
    let output = tokio::select! {
        biased;
        cause = lost => return Err(Error::lost(cause).during("keep", Some(guard.key()))),
        output = body => output,
    };
    match guard.release().await {
        Err(error) if error.kind() == ErrorKind::LeaseLost => Err(error),
        // The lock was held until the body had ended; what could not be told the TTL ends.
        _ => Ok(output),
    }
}
