//! [`Keeper`]: renews all locks that a client holds.

use crate::clock::{Alarm, locked};
use crate::guard::Held;
use crate::{Clock, ErrorKind, Lifetime, LostCause, Moment, Result};
use futures_util::FutureExt;
use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// One task a client, however many locks it holds: it wakes for the earliest that is due, and renews each on its own, so
/// that a slow lock delays no other.
pub(crate) struct Keeper(Arc<Shared>);

struct Shared {
    schedule: Mutex<Schedule>,
    /// Rings when the first entry is due earlier than the task is set to wake.
    earlier: Notify,
    stopped: AtomicBool,
    next_id: AtomicU64,
    lifetime: Lifetime,
}

struct Schedule {
    /// All held locks; `None` while a renewal is under way.
    held: HashMap<u64, (Held, Option<Moment>)>,
    due: BTreeSet<(Moment, u64)>,
    /// When the task will look again by itself.
    armed: Moment,
    /// Whether it has a timer of the runtime that is earlier than those of calls: see [`PULSE`].
    pulses: bool,
}

/// While locks are taken, the task always has a timer that ends within this. Each call has one too, its limit, and for a timer
/// that is earlier than all others tokio interrupts the thread that waits for input: a system call and a thread's wake for
/// each call, which took as long as a whole trip to a server on the same machine.
const PULSE: Duration = Duration::from_millis(500);

/// The shortest pause between two tries to renew, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

impl Keeper {
    pub(crate) fn start(runtime: &Handle, clock: Clock, lifetime: Lifetime, op_timeout: Duration) -> Self {
        let shared = Arc::new(Shared {
            schedule: Mutex::new(Schedule {
                held: HashMap::new(),
                due: BTreeSet::new(),
                armed: Moment::MIN,
                pulses: false,
            }),
            earlier: Notify::new(),
            stopped: AtomicBool::new(false),
            next_id: AtomicU64::new(0),
            lifetime,
        });
        let keeper = Self(shared.clone());
        let stopped = Stopped(shared.clone());
        runtime.spawn(async move {
            let _stopped = stopped;
            shared.keep(&clock, op_timeout).await;
        });
        keeper
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.0.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether nobody renews any more: the client's runtime is gone.
    pub(crate) fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Keeps a lock from now on.
    pub(crate) fn keep(&self, held: Held, now: Moment) {
        let due = self.0.first_due(&held, now);
        let mut schedule = locked(&self.0.schedule);
        schedule.held.insert(held.0.id, (held.clone(), None));
        self.0.put(&mut schedule, held.0.id, due);
        if !std::mem::replace(&mut schedule.pulses, true) {
            self.0.earlier.notify_one();
        }
    }

    /// Stops keeping a lock.
    pub(crate) fn forget(&self, id: u64) {
        let removed = {
            let mut schedule = locked(&self.0.schedule);
            let removed = schedule.held.remove(&id);
            if let Some((_, Some(due))) = &removed {
                schedule.due.remove(&(*due, id));
            }
            removed
        };
        // Outside the lock: the last view of a lock may end its client.
        drop(removed);
    }

    /// All locks that are held now.
    pub(crate) fn all(&self) -> Vec<Held> {
        locked(&self.0.schedule).held.values().map(|(held, _)| held.clone()).collect()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.earlier.notify_one();
    }
}

/// Tells that the task has ended, however it did.
struct Stopped(Arc<Shared>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
    }
}

/// How a try to renew ended.
struct Tried {
    held: Held,
    /// Whether the lock had been lost before the answer came.
    was_late: bool,
    result: std::thread::Result<Result<()>>,
}

impl Shared {
    /// A third of the validity that is left, so that two more tries fit; where the session is kept alive by its
    /// backend, the deadline itself.
    fn first_due(&self, held: &Held, now: Moment) -> Moment {
        let left = held.valid_until().since(now);
        match self.lifetime {
            // It lasts until then without another renewal, which only tells whether it was taken meanwhile.
            Lifetime::Lease if held.lasts_to_max_hold() => now + left.min(held.ttl() / 3),
            Lifetime::Lease => now + left / 3,
            Lifetime::Session => now + left,
        }
    }

    /// Sets when a lock is due next, unless it was forgotten meanwhile.
    fn put_back(&self, held: &Held, due: Moment) {
        self.put(&mut locked(&self.schedule), held.0.id, due);
    }

    fn put(&self, schedule: &mut Schedule, id: u64, due: Moment) {
        let Some((_, entry)) = schedule.held.get_mut(&id) else { return };
        *entry = Some(due);
        schedule.due.insert((due, id));
        if due < schedule.armed {
            schedule.armed = due;
            self.earlier.notify_one();
        }
    }

    async fn keep(self: &Arc<Self>, clock: &Clock, op_timeout: Duration) {
        let alarm = Alarm::new(clock.clone());
        let (mut tries, mut granted) = (JoinSet::new(), 0);
        while !self.stopped.load(Ordering::Acquire) {
            let (due, armed, pulses) = self.take_due(clock.now());
            for held in due {
                self.look_after(held, clock, op_timeout, &mut tries);
            }
            tokio::select! {
                biased;
                Some(tried) = tries.join_next() => if let Ok(tried) = tried {
                    self.tried(tried, clock);
                },
                () = self.earlier.notified() => {}
                () = alarm.wait_until(armed) => {}
                () = tokio::time::sleep(PULSE), if pulses => {
                    let before = std::mem::replace(&mut granted, self.next_id.load(Ordering::Relaxed));
                    locked(&self.schedule).pulses = granted != before;
                }
            }
        }
    }

    /// What is due, when to look again, and whether to pulse until then.
    fn take_due(&self, now: Moment) -> (Vec<Held>, Moment, bool) {
        let mut schedule = locked(&self.schedule);
        let mut taken = Vec::new();
        while let Some(&(due, id)) = schedule.due.first().filter(|(due, _)| *due <= now) {
            schedule.due.remove(&(due, id));
            if let Some((held, due)) = schedule.held.get_mut(&id) {
                *due = None;
                taken.push(held.clone());
            }
        }
        let first = schedule.due.first().map_or(Moment::MAX, |(due, _)| *due);
        // What was due first may have been released: it wakes for nothing then, once, and not again for each next lock.
        schedule.armed = if schedule.armed > now { schedule.armed.min(first) } else { first };
        (taken, schedule.armed, schedule.pulses)
    }

    /// Begins a try to renew a lock that is due, or drops it from the schedule if it is lost.
    fn look_after(self: &Arc<Self>, held: Held, clock: &Clock, op_timeout: Duration, tries: &mut JoinSet<Tried>) {
        if held.lost_cause().is_some() {
            return;
        }
        let now = clock.now();
        if self.lifetime == Lifetime::Session {
            let due = self.first_due(&held, now);
            self.put_back(&held, due);
            return;
        }
        let valid_until = held.valid_until();
        let give_up = now + (valid_until.since(now) / 3).clamp(PAUSE.0, op_timeout.max(PAUSE.0));
        let clock = clock.clone();
        tries.spawn(async move {
            let renewal = AssertUnwindSafe(held.0.lease.renew(give_up)).catch_unwind();
            let result = renewal.await;
            let was_late = clock.now() >= valid_until;
            Tried { held, was_late, result }
        });
    }

    fn tried(self: &Arc<Self>, tried: Tried, clock: &Clock) {
        let Tried { held, was_late, result } = tried;
        let now = clock.now();
        let due = match result {
            // A renewal that came too late revives nothing: the lock was lost at the deadline.
            Ok(Ok(())) if was_late => {
                held.is_lost(LostCause::Expired);
                return;
            }
            Ok(Ok(())) => self.first_due(&held, now),
            Ok(Err(error)) if error.kind() == ErrorKind::LeaseLost => {
                held.is_lost(error.lost_cause().unwrap_or(LostCause::Expired));
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(key = %held.key(), error = %error.chain(), "could not renew the lock; trying again");
                held.0.client.observer().renew_failed();
                now + pause(&held, now)
            }
            Err(_panic) => {
                tracing::error!(key = %held.key(), "renewing the lock panicked; trying again");
                held.0.client.observer().renew_failed();
                now + pause(&held, now)
            }
        };
        self.put_back(&held, due);
    }
}

/// The pause after a failed try: an eighth of what is left of the validity.
fn pause(held: &Held, now: Moment) -> Duration {
    (held.valid_until().since(now) / 8).clamp(PAUSE.0, PAUSE.1)
}
