//! [`Fault`]: what the nemesis breaks, and [`plan`]: when.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Something that is broken for `ms` milliseconds. A link is what connects one worker, or all of them (`slot: None`), to the
/// server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL to a worker; another is started after it.
    KillWorker {
        /// Which.
        slot: u32,
    },
    /// SIGSTOP to a worker, then SIGCONT.
    StopWorker {
        /// Which.
        slot: u32,
        /// For how long.
        ms: u64,
    },
    /// SIGKILL to a server, and a start on the same data.
    KillServer {
        /// Which of them.
        member: u32,
        /// How long it stays away.
        ms: u64,
    },
    /// SIGSTOP to a server, then SIGCONT; on one machine without a server: another holds the file's write lock.
    StopServer {
        /// Which of them.
        member: u32,
        /// For how long.
        ms: u64,
    },
    /// A member of a cluster is not reached by the others; its own calls, and those of clients, go on.
    CutMember {
        /// Which.
        member: u32,
        /// For how long.
        ms: u64,
    },
    /// Connections are reset and new ones refused.
    Cut {
        /// Whose.
        slot: Option<u32>,
        /// For how long.
        ms: u64,
    },
    /// Nothing gets through, and nothing is lost: what was sent arrives when it is over.
    Stall {
        /// Whose.
        slot: Option<u32>,
        /// Whether requests are held up.
        requests: bool,
        /// Whether replies are held up.
        replies: bool,
        /// For how long.
        ms: u64,
    },
    /// Everything takes longer.
    Delay {
        /// Whose.
        slot: Option<u32>,
        /// By so many milliseconds each way.
        by_ms: u64,
        /// For how long.
        ms: u64,
    },
    /// A connection is reset in place of the next reply: the request was carried out, and its client does not know.
    LoseReplies {
        /// Whose.
        slot: Option<u32>,
        /// For how long.
        ms: u64,
    },
}

impl Fault {
    /// Its kind, as one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::KillWorker { .. } => "kill_worker",
            Fault::StopWorker { .. } => "stop_worker",
            Fault::KillServer { .. } => "kill_server",
            Fault::StopServer { .. } => "stop_server",
            Fault::CutMember { .. } => "cut_member",
            Fault::Cut { .. } => "cut",
            Fault::Stall { requests: true, replies: true, .. } => "stall_both",
            Fault::Stall { requests: true, .. } => "stall_requests",
            Fault::Stall { .. } => "stall_replies",
            Fault::Delay { .. } => "delay",
            Fault::LoseReplies { .. } => "lose_replies",
        }
    }

    /// For how long.
    pub fn lasts(&self) -> Duration {
        Duration::from_millis(match *self {
            Fault::KillWorker { .. } => 0,
            Fault::StopWorker { ms, .. }
            | Fault::KillServer { ms, .. }
            | Fault::StopServer { ms, .. }
            | Fault::CutMember { ms, .. }
            | Fault::Cut { ms, .. }
            | Fault::Stall { ms, .. }
            | Fault::Delay { ms, .. }
            | Fault::LoseReplies { ms, .. } => ms,
        })
    }
}

/// A fault, and how long after the beginning it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// In milliseconds.
    pub at_ms: u64,
    /// Which.
    pub fault: Fault,
}

/// What can be broken.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// How many workers.
    pub workers: u32,
    /// How many servers the store has, with connections to them.
    pub members: u32,
    /// The TTL of most locks.
    pub ttl: Duration,
}

/// Since when each target is whole again. No two faults of one target overlap; those of different ones do, so that a cluster is
/// without its majority at times.
#[derive(Debug)]
struct Busy {
    members: Vec<u64>,
    workers: Vec<u64>,
    links: Vec<u64>,
}

/// After this long a restarted server answers again.
const RESTART_MS: u64 = 2_500;

/// The faults of a run: a pure function of its arguments.
pub fn plan(seed: u64, length: Duration, targets: Targets) -> Vec<Planned> {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let (workers, members) = (index(targets.workers), index(targets.members.max(1)));
    let mut busy = Busy { members: vec![0; members], workers: vec![0; workers], links: vec![0; workers] };
    let (mut planned, mut at_ms) = (Vec::new(), 0);
    loop {
        at_ms += dice.random_range(150..1_500);
        let fault = draw(&mut dice, targets);
        let end = at_ms + crate::history::millis(fault.lasts());
        if end > crate::history::millis(length) {
            return planned;
        }
        if busy.take(&fault, at_ms, end) {
            planned.push(Planned { at_ms, fault });
        }
    }
}

/// A number of few as an index.
pub(crate) fn index(number: u32) -> usize {
    usize::try_from(number).expect("there are few of them")
}

fn draw(dice: &mut ChaCha8Rng, targets: Targets) -> Fault {
    let slot = dice.random_range(0..targets.workers);
    let whose = dice.random_bool(0.6).then_some(slot);
    let member = if targets.members > 1 { dice.random_range(0..targets.members) } else { 0 };
    // A tenth of a TTL to three of them, the short ones more often.
    let ttl = f64::from(u32::try_from(targets.ttl.as_millis()).expect("a TTL of seconds"));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds in milliseconds")]
    let ms = (ttl * 0.1 * 30_f64.powf(dice.random_range(0.0..1.0))) as u64;
    let kinds = match targets.members {
        0 => 8,
        1 => 19,
        _ => 24,
    };
    match dice.random_range(0..kinds) {
        0..2 => Fault::KillWorker { slot },
        2..6 => Fault::StopWorker { slot, ms },
        6..8 => Fault::StopServer { member, ms },
        8 => Fault::KillServer { member, ms },
        9..11 => Fault::Cut { slot: whose, ms },
        11 => Fault::Stall { slot: whose, requests: true, replies: true, ms },
        12..14 => Fault::Stall { slot: whose, requests: true, replies: false, ms },
        14..16 => Fault::Stall { slot: whose, requests: false, replies: true, ms },
        16 => Fault::Delay { slot: whose, by_ms: dice.random_range(5..200), ms },
        17..19 => Fault::LoseReplies { slot: whose, ms: ms / 4 + 1 },
        // So that a cluster has as many of each member as a server that is alone.
        19..21 => Fault::StopServer { member, ms },
        21 => Fault::KillServer { member, ms },
        _ => Fault::CutMember { member, ms },
    }
}

impl Busy {
    /// Takes a fault's targets until `end`, unless one is taken.
    fn take(&mut self, fault: &Fault, from: u64, end: u64) -> bool {
        let taken: Vec<&mut u64> = match fault {
            Fault::KillWorker { slot } | Fault::StopWorker { slot, .. } => vec![&mut self.workers[index(*slot)]],
            Fault::KillServer { member, .. } | Fault::StopServer { member, .. } | Fault::CutMember { member, .. } => {
                vec![&mut self.members[index(*member)]]
            }
            Fault::Cut { slot, .. }
            | Fault::Stall { slot, .. }
            | Fault::Delay { slot, .. }
            | Fault::LoseReplies { slot, .. } => match slot {
                Some(slot) => vec![&mut self.links[index(*slot)]],
                None => self.links.iter_mut().collect(),
            },
        };
        let free = taken.iter().all(|until| **until <= from);
        if free {
            let end = if matches!(fault, Fault::KillServer { .. }) { end + RESTART_MS } else { end };
            // So that it is whole for a moment.
            taken.into_iter().for_each(|until| *until = end + 100);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: Targets = Targets { workers: 6, members: 1, ttl: Duration::from_secs(1) };

    #[test]
    fn a_seed_names_a_plan() {
        let minute = Duration::from_secs(60);
        assert_eq!(plan(7, minute, TARGETS), plan(7, minute, TARGETS));
        assert_ne!(plan(7, minute, TARGETS), plan(8, minute, TARGETS));
        let longer = plan(7, minute * 2, TARGETS);
        assert!(longer.len() > 60 && longer.windows(2).all(|two| two[0].at_ms < two[1].at_ms));
    }

    #[test]
    fn every_kind_of_fault_comes_and_ends_within_the_run() {
        let kinds = |members| {
            let planned = plan(1, Duration::from_secs(300), Targets { members, ..TARGETS });
            assert!(planned.iter().all(|one| one.at_ms + crate::history::millis(one.fault.lasts()) <= 300_000));
            planned.iter().map(|one| one.fault.kind()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(kinds(0).into_iter().collect::<Vec<_>>(), ["kill_worker", "stop_server", "stop_worker"]);
        assert_eq!(kinds(1).len(), 10, "{:?}", kinds(1));
        assert_eq!(kinds(3).len(), 11, "{:?}", kinds(3));
    }
}
