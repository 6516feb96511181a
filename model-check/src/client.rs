//! [`Client`]: one process that acquires, holds and gives up.

use crate::network::Version;
use crate::{Deed, Setup};
use dlock_core::record::machine::Asks;
use dlock_core::record::{Judge, Record};
use dlock_core::{HolderId, Moment};
use std::time::Duration;

/// One process that acquires, holds and gives up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub(crate) place: usize,
    /// Which acquisition of this place it is: with the place, its holder id.
    pub(crate) turn: u8,
    pub(crate) begun: u8,
    pub(crate) stage: Stage,
    /// What it waits for a reply to.
    pub(crate) calls: Option<Deed>,
    pub(crate) judge: Judge,
    /// The record as it knows it, and its version.
    pub(crate) known: Option<(Record, Version)>,
}

/// How far an acquisition is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// There is none.
    Idle,
    /// It wants the lock.
    Wants {
        /// How it asks next.
        asks: Asks,
        /// A request of it may still be under way, or have been carried out unheard.
        in_doubt: bool,
        /// When the last repeat was sent that was answered.
        answered: Moment,
        /// When the last repeat was sent.
        sent: Moment,
    },
    /// It was granted the lock.
    Holds {
        /// Its token.
        token: u64,
        /// Until when it believes that.
        until: Moment,
        /// As in [`Stage::Wants`].
        in_doubt: bool,
        /// That moment has passed once.
        was_lost: bool,
    },
    /// It gives the lock up.
    Releases {
        /// As in [`Stage::Wants`].
        in_doubt: bool,
    },
    /// It undoes its acquisition.
    Withdraws {
        /// As in [`Stage::Wants`].
        in_doubt: bool,
    },
}

impl Client {
    pub(crate) fn new(place: usize, turn: u8, begun: u8) -> Self {
        Self { place, turn, begun, stage: Stage::Idle, calls: None, judge: Judge::new(Duration::ZERO), known: None }
    }

    pub(crate) fn id(&self) -> HolderId {
        HolderId::from_store(format!("{}.{}", self.place, self.turn))
    }

    /// The token in which it believes.
    pub(crate) fn believes(&self, now: Moment) -> Option<u64> {
        match self.stage {
            Stage::Holds { token, until, .. } if now < until => Some(token),
            _ => None,
        }
    }

    pub(crate) fn in_doubt(&self) -> bool {
        match self.stage {
            Stage::Idle => false,
            Stage::Wants { in_doubt, .. }
            | Stage::Holds { in_doubt, .. }
            | Stage::Releases { in_doubt }
            | Stage::Withdraws { in_doubt } => in_doubt,
        }
    }

    /// The acquisition ended, and its id is not used again.
    pub(crate) fn finish(&mut self) {
        self.turn += 1;
        self.stage = Stage::Idle;
    }

    /// What it may ask for next.
    pub(crate) fn may_begin(&self, setup: &Setup, now: Moment) -> Vec<Deed> {
        if let (Stage::Holds { .. }, Some(Deed::Renew)) = (&self.stage, self.calls) {
            // A release is sent at once, whatever renewal is under way (rule K3).
            return if setup.holds_on { Vec::new() } else { vec![Deed::Release] };
        }
        if self.calls.is_some() {
            return Vec::new();
        }
        match &self.stage {
            Stage::Idle if self.begun < setup.acquisitions => {
                let mut deeds = vec![Deed::Ask(Asks::ToQueue)];
                if setup.tries {
                    deeds.push(Deed::Ask(Asks::Once));
                }
                deeds
            }
            Stage::Idle => Vec::new(),
            Stage::Wants { asks, .. } => vec![Deed::Ask(*asks)],
            Stage::Holds { until, .. } if now < *until && setup.holds_on => vec![Deed::Renew],
            Stage::Holds { until, .. } if now < *until => vec![Deed::Renew, Deed::Release],
            Stage::Holds { .. } | Stage::Releases { .. } => vec![Deed::Release],
            Stage::Withdraws { in_doubt } => {
                let mut deeds = vec![Deed::Withdraw { always_write: *in_doubt }];
                if setup.has(crate::Fault::AsksAfterWithdrawing) {
                    deeds.push(Deed::Ask(Asks::ToQueue));
                }
                deeds
            }
        }
    }
}
