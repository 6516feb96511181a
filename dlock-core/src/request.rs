//! [`Request`]: what a caller asks a backend for.

use crate::clock::locked;
use crate::{Cancel, Effect, Error, HolderId, LockInfo, LockKey, Mode, Moment, Ttl};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One acquisition, as a backend sees it. Core checks it against the backend's capabilities before: the TTL is within
/// range and a multiple of the step, the mode is supported.
///
/// Clones are the same acquisition.
#[derive(Clone, Debug)]
pub struct Request {
    key: LockKey,
    label: Arc<str>,
    mode: Mode,
    ttl: Ttl,
    op_timeout: Duration,
    cancel: Cancel,
    progress: Arc<Mutex<Progress>>,
}

#[derive(Clone, Debug)]
struct Progress {
    holder: HolderId,
    seen: Option<LockInfo>,
    queued: bool,
    failing_since: Option<Moment>,
    in_doubt: bool,
    /// Ids of before, of which a request may still be under way.
    abandoned: Vec<HolderId>,
}

impl Request {
    /// The longest label, in bytes; a longer one is cut at a character boundary.
    pub const MAX_LABEL_BYTES: usize = 128;

    /// A request for an exclusive lock with the default TTL, an empty label and an operation timeout of 5 s.
    pub fn new(key: LockKey) -> Self {
        Self {
            key,
            label: Arc::default(),
            mode: Mode::Exclusive,
            ttl: Ttl::DEFAULT,
            op_timeout: Duration::from_secs(5),
            cancel: Cancel::new(),
            progress: Arc::new(Mutex::new(Progress {
                holder: HolderId::random(),
                seen: None,
                queued: false,
                failing_since: None,
                in_doubt: false,
                abandoned: Vec::new(),
            })),
        }
    }

    /// The same acquisition of another key: for a backend that wraps another.
    #[must_use]
    pub fn with_key(mut self, key: LockKey) -> Self {
        self.key = key;
        self
    }

    /// The same acquisition, deaf to its cancel.
    #[must_use]
    pub fn without_cancel(mut self) -> Self {
        self.cancel = Cancel::new();
        self
    }

    /// With a label: who that is, for people.
    #[must_use]
    pub fn with_label(self, label: &str) -> Self {
        self.with_short_label(Self::short_label(label))
    }

    /// With a label that many requests share.
    pub(crate) fn with_short_label(mut self, label: Arc<str>) -> Self {
        self.label = label;
        self
    }

    /// A label, cut to what a request may carry.
    pub(crate) fn short_label(label: &str) -> Arc<str> {
        let end = (0..=label.len().min(Self::MAX_LABEL_BYTES)).rev().find(|&end| label.is_char_boundary(end));
        label[..end.unwrap_or(0)].into()
    }

    /// With a mode.
    #[must_use]
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// With a TTL.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = ttl;
        self
    }

    /// With the time within which each single request to the store must be answered.
    #[must_use]
    pub fn with_op_timeout(mut self, op_timeout: Duration) -> Self {
        self.op_timeout = op_timeout;
        self
    }

    /// The lock's key, prefix and all.
    pub fn key(&self) -> &LockKey {
        &self.key
    }

    /// The id of the acquisition as it is now.
    pub fn holder(&self) -> HolderId {
        locked(&self.progress).holder.clone()
    }

    /// Begins anew under a new id, because the store no longer knows the old one: its place in the queue is gone
    /// (rules R2 and R6). The old id must have nothing left in the store; of a request of it that may still be under way core
    /// takes care.
    pub fn start_anew(&self) -> HolderId {
        let mut progress = locked(&self.progress);
        let old = std::mem::replace(&mut progress.holder, HolderId::random());
        if std::mem::take(&mut progress.in_doubt) {
            progress.abandoned.push(old);
        }
        progress.holder.clone()
    }

    /// The acquisition with the id that it has now. If this request begins anew, that one does not.
    pub(crate) fn as_it_is(&self) -> Self {
        let progress = Progress { abandoned: Vec::new(), ..locked(&self.progress).clone() };
        Self { progress: Arc::new(Mutex::new(progress)), ..self.clone() }
    }

    /// The acquisitions of before that are to be withdrawn (rule R3). Each is answered once.
    pub(crate) fn take_abandoned(&self) -> Vec<Self> {
        let abandoned = std::mem::take(&mut locked(&self.progress).abandoned);
        let under = |id| {
            let request = self.as_it_is();
            locked(&request.progress).holder = id;
            request
        };
        abandoned.into_iter().map(under).collect()
    }

    /// Who asks, for people; at most [`Request::MAX_LABEL_BYTES`] bytes.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Who may hold the lock together.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The TTL asked for.
    pub fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// The time within which each single request to the store must be answered.
    pub fn op_timeout(&self) -> Duration {
        self.op_timeout
    }

    /// Fires when nobody wants the lock any more.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// To be called by a backend each time the store has answered that this acquisition waits: core then repeats
    /// [`acquire`](crate::LockBackend::acquire) after a retryable failure in place of giving up, and shows `info` to
    /// people. Without news of the lock pass `None`.
    pub fn is_waiting(&self, info: Option<LockInfo>) {
        let mut progress = locked(&self.progress);
        progress.queued = true;
        progress.failing_since = None;
        if info.is_some() {
            progress.seen = info;
        }
    }

    /// Whether the store has ever answered that this acquisition waits.
    pub fn was_queued(&self) -> bool {
        locked(&self.progress).queued
    }

    /// Since when its requests have failed, without an answer that it waits.
    pub(crate) fn failing_since(&self) -> Option<Moment> {
        locked(&self.progress).failing_since
    }

    /// A request of it has failed. Answers since when they do.
    pub(crate) fn fails(&self, now: Moment) -> Moment {
        *locked(&self.progress).failing_since.get_or_insert(now)
    }

    pub(crate) fn fails_no_more(&self) {
        locked(&self.progress).failing_since = None;
    }

    /// A request of this acquisition may still be under way, or be carried out a second time.
    pub(crate) fn is_in_doubt(&self) -> bool {
        locked(&self.progress).in_doubt
    }

    /// Remembers what an error says about that.
    pub(crate) fn doubt(&self, error: &Error) {
        if error.effect() == Effect::Unknown {
            locked(&self.progress).in_doubt = true;
        }
    }

    /// The lock as it was last seen.
    pub fn last_seen(&self) -> Option<LockInfo> {
        locked(&self.progress).seen.clone()
    }
}
