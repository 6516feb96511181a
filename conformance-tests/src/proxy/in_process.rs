//! [`Proxy::carry`]: the line to a store in this process.

use super::line::Way;
use super::{Action, Proxy};
use dlock_core::{Clock, Effect, Error, ErrorKind, Moment, Result};
use futures_util::future::BoxFuture;
use std::time::Duration;

impl Proxy {
    /// Carries a call to a store that is no server: does to it what is ordered for a request with these bytes, and fails
    /// with [`Unavailable`](ErrorKind::Unavailable) when it can't be answered `within` that time.
    ///
    /// # Cancel safety
    /// Not cancel-safe, as the calls that it carries.
    ///
    /// # Errors
    /// Those of the call, and those that the faults cause.
    pub async fn carry<T: Send + 'static>(
        &self,
        request: &[u8],
        within: Duration,
        call: impl Fn() -> BoxFuture<'static, Result<T>> + Send + Sync,
    ) -> Result<T> {
        let clock = Clock::system();
        let give_up = clock.now() + within;
        if self.line.until(|_| true).await.cut {
            return Err(Error::new(ErrorKind::Unavailable, "nothing listens there"));
        }
        if clock.timeout_at(give_up, self.line.passes(Way::Up)).await.is_none() {
            return Err(no_answer());
        }
        let Some(rule) = self.line.judge(request) else { return self.answered(&clock, within, call()).await };
        match rule.action() {
            Action::Pass => self.answered(&clock, within, call()).await,
            Action::LoseRequest | Action::CutRequest => {
                rule.strike();
                Err(reset())
            }
            Action::LoseReply | Action::CutReply => {
                let _lost = call().await;
                rule.strike();
                Err(reset())
            }
            Action::Stall => {
                let _lost = call().await;
                rule.strike();
                clock.sleep_until(give_up).await;
                Err(no_answer())
            }
            Action::Hold => {
                rule.strike();
                let late = call();
                tokio::spawn(async move {
                    rule.released().await;
                    let _lost = late.await;
                    rule.answer();
                });
                clock.sleep_until(give_up).await;
                Err(no_answer())
            }
            Action::Twice => {
                let first = call().await;
                let _second = call().await;
                rule.strike();
                first
            }
        }
    }

    /// The call's answer, unless the line is cut meanwhile, or frozen for as long as an answer may take.
    async fn answered<T>(&self, clock: &Clock, within: Duration, call: BoxFuture<'static, Result<T>>) -> Result<T> {
        let broken = async {
            loop {
                let state = self.line.until(|state| state.cut || state.is_frozen(Way::Down)).await;
                if state.cut {
                    return reset();
                }
                let until: Moment = clock.now() + within;
                let healed = self.line.until(|state| state.cut || !state.is_frozen(Way::Down));
                match clock.timeout_at(until, healed).await {
                    None => return no_answer(),
                    Some(state) if state.cut => return reset(),
                    Some(_) => {}
                }
            }
        };
        let answer = async {
            let answer = call.await;
            self.line.passes(Way::Down).await;
            answer
        };
        tokio::select! {
            biased;
            error = broken => Err(error),
            answer = answer => answer,
        }
    }
}

fn no_answer() -> Error {
    Error::new(ErrorKind::Unavailable, "no answer in time").with_effect(Effect::Unknown)
}

fn reset() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection was reset").with_effect(Effect::Unknown)
}
