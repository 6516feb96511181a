//! [`Rule`]: what is done to one request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::watch;

/// What is done to a request or its reply. The connections that it resets are gone for their client at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Pass,
    /// The request is lost, and the connection reset.
    LoseRequest,
    /// Half of the request arrives, and the connection is reset.
    CutRequest,
    /// The request is carried out; its reply is lost, and the connection reset.
    LoseReply,
    /// The request is carried out; half of its reply arrives, and the connection is reset.
    CutReply,
    /// The request is carried out; its reply and all that follows on this connection is lost, and nothing tells.
    Stall,
    /// The request, and what follows it on this connection, is held back until [`Rule::let_go`]; then it is carried out,
    /// though the client may be gone.
    Hold,
    /// The request is carried out twice; the second reply is lost. Only where [`Framing::can_repeat`](super::Framing::can_repeat).
    Twice,
}

/// Which requests a rule is about.
#[derive(Clone)]
pub struct Requests(Arc<Matches>);

type Matches = dyn Fn(&[u8]) -> bool + Send + Sync;

impl Requests {
    /// Those whose bytes are as `matches` says. Keep-alives and pings are not asked about, where the protocol has frames
    /// of their own for them.
    pub fn that(matches: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(matches))
    }

    /// Those that contain a text, such as a key or a holder's id.
    pub fn with(text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        Self::that(move |request| request.windows(text.len()).any(|part| part == text))
    }

    /// All.
    pub fn all() -> Self {
        Self::that(|_| true)
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Requests")
    }
}

/// An order for one request, and what came of it. Clones are the same order.
#[derive(Clone, Debug)]
pub struct Rule(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Requests,
    nth: usize,
    seen: AtomicUsize,
    over: AtomicBool,
    action: Action,
    struck: watch::Sender<bool>,
    let_go: watch::Sender<bool>,
    answered: watch::Sender<bool>,
}

impl Rule {
    pub(super) fn new(requests: Requests, nth: usize, action: Action) -> Self {
        Self(Arc::new(Inner {
            requests,
            nth,
            seen: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            action,
            struck: watch::Sender::new(false),
            let_go: watch::Sender::new(false),
            answered: watch::Sender::new(false),
        }))
    }

    pub(super) fn action(&self) -> Action {
        self.0.action
    }

    /// Looks at a request; whether it is the one.
    pub(super) fn sees(&self, request: &[u8]) -> bool {
        if !(self.0.requests.0)(request) {
            return false;
        }
        self.0.seen.fetch_add(1, Ordering::SeqCst) == self.0.nth && !self.0.over.load(Ordering::SeqCst)
    }

    pub(super) fn strike(&self) {
        self.0.struck.send_replace(true);
    }

    pub(super) fn answer(&self) {
        self.0.answered.send_replace(true);
    }

    pub(super) async fn released(&self) {
        let _ = self.0.let_go.subscribe().wait_for(|gone| *gone).await;
    }

    /// How many of its requests have come so far.
    pub fn seen(&self) -> usize {
        self.0.seen.load(Ordering::SeqCst)
    }

    /// From here on it only counts.
    pub fn end(&self) {
        self.0.over.store(true, Ordering::SeqCst);
    }

    /// Whether it was done.
    pub fn is_struck(&self) -> bool {
        *self.0.struck.borrow()
    }

    /// Resolves when it is done; for [`Action::Hold`], when the request is held back.
    pub async fn struck(&self) {
        let _ = self.0.struck.subscribe().wait_for(|struck| *struck).await;
    }

    /// Lets a request go that is held back.
    pub fn let_go(&self) {
        self.0.let_go.send_replace(true);
    }

    /// Resolves when the server has answered the request of [`Action::Hold`].
    pub async fn answered(&self) {
        let _ = self.0.answered.subscribe().wait_for(|answered| *answered).await;
    }
}
