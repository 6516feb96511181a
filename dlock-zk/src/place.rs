//! [`Place`]: one acquisition's node.

use crate::turn::Next;
use dlock_core::{FencingToken, HolderId, Mode, Moment};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One acquisition's node in one session: where it is, or what is not known of it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: HolderId,
    pub(crate) mode: Mode,
    /// The lock's folder.
    pub(crate) folder: String,
    state: Mutex<State>,
    next: Mutex<Option<Next>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing was sent.
    New,
    /// A create was sent, and its reply was lost: it may have been carried out.
    Doubt,
    /// The node is there, as far as we know.
    At { name: String, token: FencingToken },
    /// Nobody wants it any more, and the node may still be there.
    Leaving { name: Option<String> },
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
        let (name, sent) = match &*state {
            State::New => (None, false),
            State::Doubt => (None, true),
            State::At { name, .. } => (Some(name.clone()), true),
            State::Leaving { name } => (name.clone(), true),
        };
        *state = State::Leaving { name: name.clone() };
        (name, sent)
    }

    pub(crate) fn is_left(&self) -> bool {
        matches!(*locked(&self.state), State::Leaving { .. })
    }

    pub(crate) fn set_next(&self, next: Next) {
        *locked(&self.next) = Some(next);
    }

    /// Who waits directly behind, if it is in line for a hand-over.
    pub(crate) fn take_next(&self) -> Option<Next> {
        locked(&self.next).take()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }
}

/// The places of a session. What is in the store and not here is an orphan (rule R5).
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<HolderId, Entry>>);

#[derive(Debug)]
struct Entry {
    place: Weak<Place>,
    /// An acquisition whose call has ended with an error is repeated or withdrawn until then.
    kept: Option<(Arc<Place>, Moment)>,
}

impl Places {
    /// The place of an acquisition that was begun before.
    pub(crate) fn find(&self, id: &HolderId) -> Option<Arc<Place>> {
        locked(&self.0).get(id)?.place.upgrade()
    }

    pub(crate) fn begin(&self, id: HolderId, mode: Mode, folder: String) -> Arc<Place> {
        let place =
            Arc::new(Place { id: id.clone(), mode, folder, state: Mutex::new(State::New), next: Mutex::default() });
        locked(&self.0).insert(id, Entry { place: Arc::downgrade(&place), kept: None });
        place
    }

    /// Remembers a place beyond the end of its call.
    pub(crate) fn keep(&self, place: Arc<Place>, until: Moment) {
        if let Some(entry) = locked(&self.0).get_mut(&place.id) {
            entry.kept = Some((place, until));
        }
    }

    pub(crate) fn forget(&self, id: &HolderId) {
        locked(&self.0).remove(id);
    }

    /// Forgets those that nobody has any more, and tells whether somebody still wants the node of `id`.
    pub(crate) fn wants(&self, id: &HolderId, now: Moment) -> bool {
        let mut places = locked(&self.0);
        let Some(entry) = places.get_mut(id) else { return false };
        if entry.kept.as_ref().is_some_and(|(_, until)| *until <= now) {
            entry.kept = None;
        }
        let wanted = entry.place.upgrade().is_some_and(|place| !place.is_left());
        if !wanted && entry.place.strong_count() == 0 {
            places.remove(id);
        }
        wanted
    }

    /// Forgets all that nobody has any more.
    pub(crate) fn tidy(&self, now: Moment) {
        locked(&self.0).retain(|_, entry| {
            if entry.kept.as_ref().is_some_and(|(_, until)| *until <= now) {
                entry.kept = None;
            }
            entry.place.strong_count() > 0
        });
    }
}

/// A lock on plain data, usable after a panic elsewhere: no update here leaves the data half done.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
