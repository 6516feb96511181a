//! [`rounds`]: an operation, with a fault at each of its requests in turn.

use crate::Env;
use crate::env::{OP_TIMEOUT, eventually, within};
use crate::proxy::{Action, Proxy, Requests, Rule};
use dlock_core::{Error, ErrorKind, HolderId, LockBackend, LockKey, Request, Result};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is freed by a repeated request is free within this. The TTL of these cases is far longer.
pub(crate) const SOON: Duration = Duration::from_secs(4);
/// No operation sends so many requests; a waiter that polls does.
const MOST: usize = 8;

/// One round: an own key, and a fault for one request.
pub(crate) struct Round<'a> {
    env: &'a Env,
    line: &'a Proxy,
    action: Action,
    nth: usize,
    part: String,
    rules: Mutex<Vec<Rule>>,
}

impl Round<'_> {
    pub(crate) fn name(&self) -> String {
        self.env.name(&self.part)
    }

    pub(crate) fn key(&self) -> LockKey {
        self.env.key(&self.part)
    }

    /// A request on the faulty line, with a TTL that does not end.
    pub(crate) fn request(&self) -> Request {
        self.env.long(&self.part).with_op_timeout(OP_TIMEOUT)
    }

    /// From here on the fault waits for its request.
    pub(crate) fn arm(&self) -> Rule {
        let rule = self.line.on(Requests::with(&self.name()), self.nth, self.action);
        self.rules.lock().expect("the rules").push(rule.clone());
        rule
    }

    fn was_struck(&self) -> bool {
        self.rules.lock().expect("the rules").iter().any(Rule::is_struck)
    }

    /// Nobody holds or waits, soon, and so not by the TTL.
    pub(crate) async fn is_free(&self, direct: &Arc<dyn LockBackend>) {
        let what = format!("the key is free after {:?} of request {}", self.action, self.nth);
        eventually(SOON, &what, async || {
            let info = direct.inspect(&self.key()).await.expect("inspect");
            !info.is_held() && info.waiters.is_none_or(|waiters| waiters.is_empty())
        })
        .await;
    }

    /// This one holds, and no other.
    pub(crate) async fn is_held_by(&self, direct: &Arc<dyn LockBackend>, holder: &HolderId) {
        let info = direct.inspect(&self.key()).await.expect("inspect");
        let holders: Vec<_> = info.holders.into_iter().map(|holder| holder.id).collect();
        assert_eq!(holders, std::slice::from_ref(holder), "after {:?} of request {}", self.action, self.nth);
    }

    /// Calls with the fault armed, and again until it succeeds.
    pub(crate) async fn through<T>(&self, what: &str, mut call: impl AsyncFnMut() -> Result<T>, seen: impl FnOnce(T)) {
        let rule = self.arm();
        let first = within(2 * OP_TIMEOUT, what, call()).await;
        rule.end();
        match first {
            Ok(done) => seen(done),
            Err(error) => {
                self.judge(&error);
                seen(insist(what, call).await);
            }
        }
    }

    /// The error of a request that met the fault.
    pub(crate) fn judge(&self, error: &Error) {
        assert!(self.was_struck(), "an error without a fault: {}", error.chain());
        assert_eq!(
            error.kind(),
            ErrorKind::Unavailable,
            "after {:?} of request {}: {}",
            self.action,
            self.nth,
            error.chain()
        );
    }
}

/// Plays with each action at the first request of what is armed, the second, and so on until there is none.
pub(crate) async fn rounds(env: &Env, line: &Proxy, actions: &[Action], play: impl AsyncFn(&Round<'_>)) {
    for &action in actions {
        for nth in 0..MOST {
            let part = format!("{action:?}{nth}-").to_lowercase();
            let round = Round { env, line, action, nth, part, rules: Mutex::default() };
            play(&round).await;
            if !round.was_struck() {
                assert!(nth > 0, "the line has seen no request of the lock");
                break;
            }
        }
    }
}

/// Calls until it succeeds, as core would.
pub(crate) async fn insist<T>(what: &str, mut call: impl AsyncFnMut() -> Result<T>) -> T {
    let mut done = None;
    eventually(2 * SOON, what, async || {
        done = match call().await {
            Ok(done) => Some(done),
            Err(error) if error.kind() == ErrorKind::Unavailable => None,
            Err(error) => panic!("{what}: {}", error.chain()),
        };
        done.is_some()
    })
    .await;
    done.expect("it succeeded")
}
