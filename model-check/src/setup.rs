//! [`Setup`]: what takes part, and how often what may happen.

use crate::Fault;
use dlock_core::Mode;
use std::time::Duration;

/// What takes part, and how often what may happen: the bounds of the model.
#[derive(Clone, Debug)]
pub struct Setup {
    /// One client each.
    pub modes: Vec<Mode>,
    /// Whether clients also try once, without waiting.
    pub tries: bool,
    /// How often each client may begin an acquisition.
    pub acquisitions: u8,
    /// How many ticks of a second may pass.
    pub ticks: u8,
    /// The TTL. It ends between two ticks, so that a belief that is too long by one tick meets the next holder.
    pub ttl: Duration,
    /// For how many replies clients may wait at once, all together.
    pub messages: usize,
    /// How many requests or replies may be lost, or be so late that their sender has given them up.
    pub lost: u8,
    /// How many requests may be delivered twice.
    pub twice: u8,
    /// How many clients may crash; another takes the place of each.
    pub crashes: u8,
    /// By how many milliseconds the store's clock may jump.
    pub jumps: Vec<i64>,
    /// How often it may jump.
    pub jump_count: u8,
    /// How often an idle record may be purged.
    pub purges: u8,
    /// Whether the store removes idle records itself, and keeps the mark of their tokens (memory, a local file).
    pub removes_idle: bool,
    /// How much earlier than in the tick of its arrival a request may have been sent: the clock is known that roughly.
    pub blur: Duration,
    /// Whether the replies of swaps tell the store's time.
    pub replies_tell_time: bool,
    /// Whether the store's time can be read without a request.
    pub local_time: bool,
    /// Whether a waiter is told of its grant, and believes in it (a backend with a recipe of its own does so).
    pub push: bool,
    /// Whether clients hold on and wait on, and so neither release nor give up: for longer times.
    pub holds_on: bool,
    /// The rule that is left out.
    pub fault: Option<Fault>,
    /// The fair continuation is looked at in one of so many states; 0: in none.
    pub continue_one_in: u64,
}

impl Setup {
    /// Two clients of these modes on a sound network and clock.
    pub fn new(modes: &[Mode]) -> Self {
        Self {
            modes: modes.to_vec(),
            tries: false,
            acquisitions: 1,
            ticks: 4,
            ttl: Duration::from_millis(1_500),
            messages: 3,
            lost: 0,
            twice: 0,
            crashes: 0,
            jumps: Vec::new(),
            jump_count: 0,
            purges: 0,
            removes_idle: false,
            blur: Duration::ZERO,
            replies_tell_time: true,
            local_time: false,
            push: false,
            holds_on: false,
            fault: None,
            continue_one_in: 1,
        }
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }
}
