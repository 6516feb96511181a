//! [`Worker`]: the thread that has a file's connection.

use dlock_core::{Clock, Effect, Error, ErrorKind, Moment, Result};
use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// SQLite is told when to give up, and its answer says more than that none came.
const AFTER_SQLITE: Duration = Duration::from_millis(50);

/// The thread that has a file's connection. It does one thing after the other in the order in which they came: however many
/// tasks there are, none waits for those that came later.
#[derive(Debug)]
pub(crate) struct Worker {
    /// `None` once it is to end.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start(mut connection: Connection) -> Result<Self> {
        let (jobs, to_do) = mpsc::channel::<Job>();
        let work = move || {
            for job in to_do {
                // The caller of one that panics gets no answer; a transaction in it is rolled back.
                let _ = catch_unwind(AssertUnwindSafe(|| job(&mut connection)));
            }
        };
        let thread = thread::Builder::new().name("dlock-local".to_owned()).spawn(work);
        let no_thread = |error| Error::new(ErrorKind::Unexpected, "no thread for the lock file").with_source(error);
        Ok(Self { jobs: Some(jobs), thread: Some(thread.map_err(no_thread)?) })
    }

    /// Has `work` done before all that is asked for later.
    pub(crate) fn tell(&self, work: impl FnOnce(&mut Connection) + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // If the thread is gone nothing is done later either.
            let _ = jobs.send(Box::new(work));
        }
    }

    /// Has `work` done, and answers by `give_up` or a moment later. Once begun it ends even if nobody awaits it; what has not
    /// begun by then is not done.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        clock: &Clock,
        give_up: Moment,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let now = clock.clone();
        // If the thread is gone this is dropped, and its answer does not come.
        self.tell(move |connection| {
            let in_time = now.now() < give_up;
            let _ = answer.send(if in_time { work(connection) } else { Err(late(Effect::NotApplied)) });
        });
        match clock.timeout_at(give_up + AFTER_SQLITE, answered).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => {
                Err(Error::new(ErrorKind::Unexpected, "work on the lock file panicked").with_effect(Effect::Unknown))
            }
            None => Err(late(Effect::Unknown)),
        }
    }
}

fn late(effect: Effect) -> Error {
    Error::new(ErrorKind::Unavailable, "the lock file was busy for too long").with_effect(effect)
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // The last to let go of the file may be a job itself.
        if let Some(thread) = self.thread.take().filter(|worker| worker.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}
