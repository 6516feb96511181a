//! [`Setup`]: the contenders of one store.

use crate::stores;
use dlock_bench::{BoxError, Contender, Dlock, Entry, Meter, NotRun, Role};
use futures_util::FutureExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The contenders of one store.
pub(crate) struct Setup {
    store: String,
    url: String,
    pub(crate) entries: Vec<Entry>,
    pub(crate) not_run: Vec<NotRun>,
    pub(crate) meter: Option<Arc<dyn Meter>>,
}

impl Setup {
    pub(crate) fn of(store: &str, url: &str, peers: Option<&Path>) -> Result<Self, BoxError> {
        let mut setup = Self {
            store: store.to_owned(),
            url: url.to_owned(),
            entries: Vec::new(),
            not_run: Vec::new(),
            meter: None,
        };
        let own = url.to_owned();
        let dlock = Dlock::new(move || {
            let url = own.clone();
            async move { dlocks::connect(&url).await }.boxed()
        });
        setup.add("dlock", Role::Dlock, "", dlock);
        match store {
            #[cfg(feature = "redis")]
            "redis" => stores::redis::fill(&mut setup)?,
            #[cfg(feature = "sql")]
            "postgres" => stores::postgres::fill(&mut setup)?,
            #[cfg(feature = "sql")]
            "mariadb" => stores::mariadb::fill(&mut setup)?,
            #[cfg(feature = "etcd")]
            "etcd" => stores::etcd::fill(&mut setup)?,
            #[cfg(feature = "zk")]
            "zookeeper" => stores::zookeeper::fill(&mut setup)?,
            #[cfg(feature = "dynamo")]
            "dynamodb" => stores::dynamodb::fill(&mut setup)?,
            "local" => {}
            "memory" => setup.cannot("what takes several processes", "its locks are those of one process"),
            _ => return Err(format!("no floor is known for the store {store}, or its feature is off").into()),
        }
        if let Some(folder) = peers {
            setup.add_processes(folder)?;
        }
        Ok(setup)
    }

    /// The store's URL without dlock's own parameters, as other clients understand it.
    pub(crate) fn plain_url(&self) -> &str {
        self.url.split('?').next().unwrap_or_default()
    }

    /// A parameter of the store's URL.
    #[cfg(feature = "dynamo")]
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let (_, query) = self.url.split_once('?')?;
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.replace("%3A", ":").replace("%2F", "/"))
    }

    /// Whether its locks are those of more than one process.
    pub(crate) fn spans_processes(&self) -> bool {
        self.store != "memory"
    }

    /// Says what is not measured, and why.
    pub(crate) fn cannot(&mut self, what: &str, why: &str) {
        self.not_run.push(NotRun { store: self.store.clone(), what: what.to_owned(), why: why.to_owned() });
    }

    /// A contender that is measured in this process.
    pub(crate) fn add(&mut self, name: &str, role: Role, note: &'static str, contender: impl Contender + 'static) {
        let command = self.command(name, &self.url);
        let here: Option<Arc<dyn Contender>> = Some(Arc::new(contender));
        self.entries.push(Entry { name: name.to_owned(), role, here, command, note });
    }

    /// The raw pair of a store that passes nothing on, as the floor of pairs, and its chain, as that of hand-overs.
    #[cfg(any(feature = "sql", feature = "dynamo"))]
    pub(crate) fn add_pairs<C: Contender + 'static>(&mut self, name: &str, note: &'static str, make: impl Fn() -> C) {
        self.add(name, Role::Pairs, note, make());
        let note = "the tasks queue in the process; nobody waits in the store";
        self.add("chain of raw pairs", Role::Chain, note, crate::simple::chained(make()));
    }

    fn command(&self, name: &str, url: &str) -> Vec<String> {
        let own = std::env::current_exe().unwrap_or_default().display().to_string();
        [own.as_str(), "serve", &self.store, url, name].map(String::from).to_vec()
    }

    /// Contenders of other languages: `peers.json` of the folder has for each store a list of `{name, command, note}`, and
    /// those that can't be run as `{name, why}`.
    fn add_processes(&mut self, folder: &Path) -> Result<(), BoxError> {
        let peers: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(folder.join("peers.json"))?)?;
        let text = |value: &serde_json::Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        for peer in peers[&self.store].as_array().into_iter().flatten() {
            let name = text(peer, "name");
            if let Some(why) = peer["why"].as_str() {
                self.cannot(&name, why);
                continue;
            }
            let mut command: Vec<String> = serde_json::from_value(peer["command"].clone())?;
            command.push(self.plain_url().to_owned());
            let note = text(peer, "note").leak();
            self.entries.push(Entry { name, role: Role::Peer, here: None, command, note });
        }
        Ok(())
    }

    /// A contender by its name.
    pub(crate) fn here(&self, name: &str) -> Result<Arc<dyn Contender>, BoxError> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.and_then(|entry| entry.here.clone()).ok_or_else(|| format!("no contender {name}").into())
    }

    /// dlock with another TTL. Others are not measured by what a crash costs: their TTL is theirs to choose.
    pub(crate) fn with_ttl(&self, entry: &Entry, ttl: Duration) -> Option<(Entry, Duration)> {
        if entry.role != Role::Dlock {
            return None;
        }
        let mark = if self.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{mark}ttl={}s", self.url, ttl.as_secs());
        let own = url.clone();
        let dlock = Dlock::new(move || {
            let url = own.clone();
            async move { dlocks::connect(&url).await }.boxed()
        });
        let command = self.command(&entry.name, &url);
        Some((Entry { here: Some(Arc::new(dlock)), command, ..entry.clone() }, ttl))
    }

    /// Removes what a workload left in the store, so that all find it alike.
    pub(crate) async fn clear(&self) {
        #[cfg(feature = "redis")]
        if self.store == "redis" {
            if let Err(error) = stores::redis::clear(self.plain_url()).await {
                eprintln!("could not empty the database: {error}");
            }
        }
    }
}
