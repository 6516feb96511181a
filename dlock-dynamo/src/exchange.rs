//! [`Exchange`]: one request and its reply, with the service's clock; throttled requests are sent again.

use crate::config::{GRANULARITY, UNEVEN};
use crate::error::{Refusal, code, from_sdk, is_skewed, is_throttled, no_answer};
use aws_sdk_dynamodb::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::{BoxError, SdkError};
use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat};
use aws_smithy_async::time::TimeSource;
use dlock_core::record::{StoreReading, StoreTime};
use dlock_core::{Clock, Moment, Result, backoff};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// The machine's wall clock, corrected by what the service's replies say: requests are signed with their time, and the
/// service refuses one that is minutes off. Nothing else here looks at a wall clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Corrected(Arc<AtomicI64>);

/// A smaller difference is left as it is.
const CORRECT_FROM: i64 = 60;

impl Corrected {
    /// Learns from the `Date` of a reply, in seconds.
    fn learn(&self, date: i64) {
        let here = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ahead = date - i64::try_from(here.as_secs()).unwrap_or(i64::MAX);
        self.0.store(if ahead.abs() < CORRECT_FROM { 0 } else { ahead }, Ordering::Relaxed);
    }

    fn seconds(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl TimeSource for Corrected {
    fn now(&self) -> SystemTime {
        let (now, by) = (SystemTime::now(), Duration::from_secs(self.seconds().unsigned_abs()));
        let corrected = if self.seconds() < 0 { now.checked_sub(by) } else { now.checked_add(by) };
        corrected.unwrap_or(now)
    }
}

/// When a request was sent, and when and with which `Date` its reply came.
#[derive(Clone, Debug)]
pub(crate) struct Stamps(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    time: Corrected,
    sent: OnceLock<Moment>,
    reading: OnceLock<StoreReading>,
}

impl Stamps {
    fn was_sent(&self) -> bool {
        self.0.sent.get().is_some()
    }
}

impl Intercept for Stamps {
    fn name(&self) -> &'static str {
        "dlock"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let _ = self.0.sent.set(self.0.clock.now());
        Ok(())
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let received = self.0.clock.now();
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        if let (Some(date), Some(sent)) = (date, self.0.sent.get()) {
            self.0.time.learn(date.secs());
            if let Some(reading) = reading(date.secs(), *sent, received) {
                let _ = self.0.reading.set(reading);
            }
        }
        Ok(())
    }
}

/// The service's clock by a reply's `Date`, in seconds since 1970. Not one server answers but many: a reading counts for
/// what any of them may show at that moment.
fn reading(date: i64, sent: Moment, received: Moment) -> Option<StoreReading> {
    let shown = Duration::from_secs(u64::try_from(date).ok()?).checked_sub(UNEVEN)?;
    let micros = u64::try_from(shown.as_micros()).ok()?;
    Some(StoreReading { at: StoreTime(micros), granularity: GRANULARITY, unix_micros: micros, sent, received })
}

/// A reply: an answer or a refusal.
#[derive(Debug)]
pub(crate) struct Reply<T, E> {
    pub(crate) answer: Result<T, SdkError<E>>,
    /// The service's clock, where the reply had a `Date`.
    pub(crate) reading: Option<StoreReading>,
    was_sent: bool,
}

impl<T, E: Refusal> Reply<T, E> {
    /// The answer, or the refusal as our error; `advice` is how the table is made.
    pub(crate) fn into_answer(self, advice: &str) -> Result<(T, Option<StoreReading>)> {
        let Self { answer, reading, was_sent } = self;
        let answer = answer.map_err(|error| from_sdk(error, was_sent, advice))?;
        Ok((answer, reading))
    }

    /// The code of a refusal, or nothing.
    pub(crate) fn code(&self) -> &str {
        self.answer.as_ref().err().map_or("", code)
    }
}

/// Sends requests.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) clock: Clock,
    pub(crate) time: Corrected,
}

impl Exchange {
    /// The reply to what `send` sends, or an error at `give_up`, whatever the socket does. A request that the service
    /// throttled was not carried out, and is sent again in the first three quarters of the time: cut short, the last one would
    /// hide why nothing was done.
    ///
    /// Dropped, or given up, the request may still be carried out.
    pub(crate) async fn ask<T, E, F>(&self, give_up: Moment, send: impl Fn(Stamps) -> F) -> Result<Reply<T, E>>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: Refusal,
    {
        let (mut pauses, mut is_corrected) = (backoff(), false);
        let begun = self.clock.now();
        let last = begun + give_up.since(begun) * 3 / 4;
        loop {
            let (clock, time) = (self.clock.clone(), self.time.clone());
            let (sent, reading, before) = (OnceLock::new(), OnceLock::new(), time.seconds());
            let stamps = Stamps(Arc::new(Inner { clock, time, sent, reading }));
            // The client's futures are large.
            let answer = self.clock.timeout_at(give_up, Box::pin(send(stamps.clone()))).await;
            let answer = answer.ok_or_else(|| no_answer(stamps.was_sent()))?;
            let reply = Reply { answer, reading: stamps.0.reading.get().copied(), was_sent: stamps.was_sent() };
            if is_skewed(reply.code()) && !is_corrected && self.time.seconds() != before {
                // The refusal itself told the time.
                is_corrected = true;
                continue;
            }
            let again = self.clock.now() + pauses.next().unwrap_or_default();
            if !is_throttled(reply.code()) || again >= last {
                return Ok(reply);
            }
            tracing::warn!(code = reply.code(), "the service throttles the table of locks; sending again");
            self.clock.sleep_until(again).await;
        }
    }
}
