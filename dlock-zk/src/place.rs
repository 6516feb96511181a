//! [`Place`]: one acquisition's node.

use crate::node::Node;
use crate::turn::Next;
use dlock_core::{FencingToken, HolderId, Mode, Moment};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One acquisition's node in one session: where it is, or what is not known of it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: HolderId,
    pub(crate) mode: Mode,
    /// The lock's folder.
    pub(crate) folder: Box<str>,
    state: Mutex<State>,
    /// In a box: most have none.
    next: Mutex<Option<Box<Next>>>,
    /// Somebody else removed the node of a holder.
    gone: AtomicBool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing was sent.
    New,
    /// A create was sent, and its reply was lost: it may have been carried out.
    Doubt,
    /// The node is there, as far as we know.
    At { sequence: i64, token: FencingToken },
    /// Nobody wants it any more, and the node may still be there.
    Leaving { sequence: Option<i64> },
}

impl Place {
    pub(crate) fn state(&self) -> State {
        locked(&self.state).clone()
    }

    pub(crate) fn set(&self, state: State) {
        *locked(&self.state) = state;
    }

    /// From now on nobody wants it. Answers its node's name, if that is known, and whether there may be a node.
    pub(crate) fn leave(&self) -> (Option<String>, bool) {
        let mut state = locked(&self.state);
        let (sequence, sent) = match *state {
            State::New => (None, false),
            State::Doubt => (None, true),
            State::At { sequence, .. } => (Some(sequence), true),
            State::Leaving { sequence } => (sequence, true),
        };
        *state = State::Leaving { sequence };
        (sequence.map(|sequence| self.name(sequence)), sent)
    }

    pub(crate) fn is_left(&self) -> bool {
        matches!(*locked(&self.state), State::Leaving { .. })
    }

    /// The number of its node, while that is known and wanted.
    pub(crate) fn sequence(&self) -> Option<i64> {
        match *locked(&self.state) {
            State::At { sequence, .. } => Some(sequence),
            State::New | State::Doubt | State::Leaving { .. } => None,
        }
    }

    /// Whether its node is there to hand the lock over, as far as is known.
    pub(crate) fn is_there(&self) -> bool {
        self.sequence().is_some() && !self.gone.load(Ordering::Acquire)
    }

    /// Somebody else removed its node: who waits directly behind looks.
    pub(crate) fn is_gone(&self) {
        self.gone.store(true, Ordering::Release);
        drop(self.take_next());
    }

    pub(crate) fn set_next(&self, next: Next) {
        *locked(&self.next) = Some(Box::new(next));
    }

    /// Who waits directly behind, if it is in line for a hand-over.
    pub(crate) fn take_next(&self) -> Option<Box<Next>> {
        locked(&self.next).take()
    }

    /// The name of its node with that number.
    pub(crate) fn name(&self, sequence: i64) -> String {
        Node::name(&self.id, self.mode, sequence)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }
}

/// The places of a session. What is in the store and not here is an orphan (rule R5).
#[derive(Debug, Default)]
pub(crate) struct Places {
    all: Mutex<HashMap<HolderId, Weak<Place>>>,
    /// Those of acquisitions whose call has ended with an error: they are repeated or withdrawn until then.
    kept: Mutex<HashMap<HolderId, (Arc<Place>, Moment)>>,
    /// The last exclusive one that waited in each folder.
    last: Mutex<HashMap<Box<str>, Weak<Place>>>,
}

impl Places {
    /// The place of an acquisition that was begun before.
    pub(crate) fn find(&self, id: &HolderId) -> Option<Arc<Place>> {
        locked(&self.all).get(id)?.upgrade()
    }

    pub(crate) fn begin(&self, id: HolderId, mode: Mode, folder: Box<str>) -> Arc<Place> {
        let place = Arc::new(Place {
            id: id.clone(),
            mode,
            folder,
            state: Mutex::new(State::New),
            next: Mutex::default(),
            gone: AtomicBool::new(false),
        });
        locked(&self.all).insert(id, Arc::downgrade(&place));
        place
    }

    /// The node of the last exclusive place that waited in a folder, while somebody wants it.
    pub(crate) fn last_in(&self, folder: &str) -> Option<String> {
        let last = locked(&self.last).get(folder)?.upgrade().filter(|last| last.is_there())?;
        last.sequence().map(|sequence| last.name(sequence))
    }

    /// An exclusive place waits.
    pub(crate) fn waits(&self, place: &Arc<Place>) {
        let mut last = locked(&self.last);
        let other = last.get(&place.folder).and_then(Weak::upgrade).and_then(|other| other.sequence());
        // A wrap of the numbers costs a list.
        if place.sequence() > other {
            last.insert(place.folder.clone(), Arc::downgrade(place));
        }
    }

    /// Remembers a place beyond the end of its call.
    pub(crate) fn keep(&self, place: Arc<Place>, until: Moment) {
        if locked(&self.all).contains_key(&place.id) {
            locked(&self.kept).insert(place.id.clone(), (place, until));
        }
    }

    pub(crate) fn forget(&self, id: &HolderId) {
        locked(&self.all).remove(id);
        locked(&self.kept).remove(id);
    }

    /// Forgets those that nobody has any more, and tells whether somebody still wants the node of `id`.
    pub(crate) fn wants(&self, id: &HolderId, now: Moment) -> bool {
        {
            let mut kept = locked(&self.kept);
            if kept.get(id).is_some_and(|(_, until)| *until <= now) {
                kept.remove(id);
            }
        }
        let mut all = locked(&self.all);
        let Some(place) = all.get(id) else { return false };
        let wanted = place.upgrade().is_some_and(|place| !place.is_left());
        if !wanted && place.strong_count() == 0 {
            all.remove(id);
        }
        wanted
    }

    /// Forgets all that nobody has any more.
    pub(crate) fn tidy(&self, now: Moment) {
        locked(&self.kept).retain(|_, (_, until)| *until > now);
        locked(&self.all).retain(|_, place| place.strong_count() > 0);
        locked(&self.last).retain(|_, place| place.strong_count() > 0);
    }
}

/// A lock on plain data, usable after a panic elsewhere: no update here leaves the data half done.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
