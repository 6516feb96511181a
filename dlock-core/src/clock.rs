//! [`Moment`] and [`Clock`]: local time that counts suspend.

use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;

/// A point in local time, in nanoseconds since boot. It counts the time that the machine was suspended, and compares
/// only with moments of the same [`Clock`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// Before every other moment.
    pub const MIN: Moment = Moment(0);
    /// After every other moment.
    pub const MAX: Moment = Moment(u64::MAX);

    /// From nanoseconds since boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The earlier of two.
    #[must_use]
    pub fn min(self, other: Moment) -> Moment {
        Ord::min(self, other)
    }

    /// The later of two.
    #[must_use]
    pub fn max(self, other: Moment) -> Moment {
        Ord::max(self, other)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(nanos(duration)))
    }
}

impl std::ops::Sub<Duration> for Moment {
    type Output = Moment;
    fn sub(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_sub(nanos(duration)))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot+{:?}", Duration::from_nanos(self.0))
    }
}

/// Where moments come from: the machine, or a test's hand.
///
/// The system's clock is `CLOCK_BOOTTIME` on Linux and the monotonic clock elsewhere. A [`Clock::manual`] stands still
/// until it is advanced, since no machine can be suspended in a test.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<watch::Sender<Moment>>),
}

/// A wait is never longer than this without a look at the clock: timers may stand still in suspend.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until [`Clock::advance`].
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::new(watch::Sender::new(Moment(1_000_000_000_000)))))
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        match &self.0 {
            Source::System => system_now(),
            Source::Manual(now) => *now.borrow(),
        }
    }

    /// Moves a manual clock on and wakes who slept until then. Does nothing to the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.send_modify(|now| *now = *now + by);
        }
    }

    /// Resolves once `moment` has come, at most a second late after a suspend.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Panics
    /// On the system's clock, outside a tokio runtime with its timer enabled.
    pub async fn sleep_until(&self, moment: Moment) {
        match &self.0 {
            Source::System => loop {
                let left = moment.since(system_now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(LOOK_AGAIN)).await;
            },
            Source::Manual(now) => {
                let mut advanced = now.subscribe();
                // The sender is alive: `self` holds it. In a box, since this is the rare one of the two.
                let _ = Box::pin(advanced.wait_for(|now| *now >= moment)).await;
            }
        }
    }

    /// Resolves after `duration`.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Panics
    /// As [`Clock::sleep_until`].
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }

    /// `future`'s output, or `None` if `moment` comes first.
    ///
    /// # Cancel safety
    /// As cancel-safe as `future`, which is dropped with this one.
    pub fn timeout_at<F: Future>(&self, moment: Moment, future: F) -> impl Future<Output = Option<F::Output>> {
        // An async block would hold the future twice, of which a call has several inside each other.
        // The end must come though the future uses up what a task may do at once.
        Until { future, end: tokio::task::unconstrained(self.sleep_until(moment)) }
    }
}

pin_project! {
    /// The future's output, or nothing if `end` comes first.
    struct Until<F, E> {
        #[pin]
        future: F,
        #[pin]
        end: E,
    }
}

impl<F: Future, E: Future<Output = ()>> Future for Until<F, E> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.future.poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => this.end.poll(context).map(|()| None),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn system_now() -> Moment {
    of(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn system_now() -> Moment {
    of(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

fn of(time: rustix::time::Timespec) -> Moment {
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    Moment(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Wakes one task at a moment that may be moved: a `CLOCK_BOOTTIME` timer on Linux, which fires right after a suspend,
/// and [`Clock::sleep_until`] elsewhere.
pub(crate) struct Alarm {
    clock: Clock,
    #[cfg(target_os = "linux")]
    timer: Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
}

impl Alarm {
    pub(crate) fn new(clock: Clock) -> Self {
        #[cfg(target_os = "linux")]
        let timer = match clock.0 {
            Source::System => boottime_timer(),
            Source::Manual(_) => None,
        };
        Self {
            clock,
            #[cfg(target_os = "linux")]
            timer,
        }
    }

    /// Resolves once `moment` has come. Cancel-safe; the next call arms anew.
    pub(crate) async fn wait_until(&self, moment: Moment) {
        #[cfg(target_os = "linux")]
        if let Some(timer) = &self.timer {
            while self.clock.now() < moment {
                if !arm(timer, moment) {
                    break;
                }
                match timer.readable().await {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => break,
                }
            }
        }
        self.clock.sleep_until(moment).await;
    }
}

#[cfg(target_os = "linux")]
fn boottime_timer() -> Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).ok()?;
    // Deprecated because other types than a descriptor of our own may be unsound here; the successor is `unsafe`.
    #[allow(deprecated)]
    tokio::io::unix::AsyncFd::with_interest(timer, tokio::io::Interest::READABLE).ok()
}

#[cfg(target_os = "linux")]
fn arm(timer: &tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>, moment: Moment) -> bool {
    use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
    // Setting the timer also takes back an expiry that nobody read.
    let at = moment.0.max(1);
    let (Ok(tv_sec), Ok(tv_nsec)) = (i64::try_from(at / 1_000_000_000), i64::try_from(at % 1_000_000_000)) else {
        return false;
    };
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let when = Itimerspec { it_interval: zero, it_value: Timespec { tv_sec, tv_nsec } };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &when).is_ok()
}

/// A lock on plain data, usable after a panic elsewhere: no update here leaves the data half done.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_rings_at_its_moment() {
        let clock = Clock::system();
        let alarm = Alarm::new(clock.clone());
        for millis in [1, 20] {
            let at = clock.now() + Duration::from_millis(millis);
            alarm.wait_until(at).await;
            assert!(clock.now() >= at);
        }
    }

    #[tokio::test]
    async fn a_manual_clock_moves_only_by_hand() {
        let clock = Clock::manual();
        let start = clock.now();
        let until = start + Duration::from_secs(60);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(until).await }
        });
        assert_eq!(clock.now(), start);
        clock.advance(Duration::from_secs(60));
        sleeper.await.unwrap();
        assert_eq!(clock.now().since(start), Duration::from_secs(60));
    }
}
