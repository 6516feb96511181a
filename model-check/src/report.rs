//! [`explore`]: all states of a setup.

use crate::{Action, Setup, World};
use stateright::{Checker, Model, Property};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::{Duration, Instant};

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// How many different states there are.
    pub states: usize,
    /// The longest of the shortest paths to them.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// The properties that do not hold, each with the path to where it does not.
    pub violations: Vec<(&'static str, Vec<Action>)>,
    /// What is to be seen somewhere, and was.
    pub seen: Vec<&'static str>,
}

struct Check(Setup);

impl Model for Check {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.0)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.actions(&self.0));
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.after(&self.0, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("exclusion", |check: &Self, world: &World| world.excludes(&check.0)),
            Property::always("a believed lease is in the store", |_, world: &World| world.believes_what_is()),
            Property::always("tokens grow", |_, world: &World| !world.wrong.token),
            Property::always("lost is final", |_, world: &World| !world.wrong.revived),
            Property::always("no orphans", |_, world: &World| !world.has_orphans()),
            Property::always("all are served", |check: &Self, world: &World| {
                !check.is_continued(world) || world.serves_all(&check.0)
            }),
            Property::sometimes("granted while its repeat was lost", |_, world: &World| world.granted_unheard()),
            Property::sometimes("crashed in the queue", |_, world: &World| world.crashed_in_queue()),
            Property::sometimes("stopped past its deadline", |_, world: &World| world.stopped_past_its_deadline()),
        ]
    }
}

impl Check {
    fn is_continued(&self, world: &World) -> bool {
        match self.0.continue_one_in {
            0 => false,
            1 => true,
            some => BuildHasherDefault::<DefaultHasher>::default().hash_one(world) % some == 0,
        }
    }
}

/// Explores all states of a setup, or as many as it takes to violate a property.
pub fn explore(setup: Setup) -> Found {
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let finish =
        if setup.fault.is_some() { stateright::HasDiscoveries::AnyFailures } else { stateright::HasDiscoveries::All };
    let checker = Check(setup).checker().threads(threads).finish_when(finish).spawn_bfs().join();
    let (mut violations, mut seen) = (Vec::new(), Vec::new());
    for (name, path) in checker.discoveries() {
        match checker.model().property(name).expectation {
            stateright::Expectation::Sometimes => seen.push(name),
            _ => violations.push((name, path.into_actions())),
        }
    }
    Found { states: checker.unique_state_count(), depth: checker.max_depth(), took: begun.elapsed(), violations, seen }
}
