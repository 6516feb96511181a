//! [`Config`]: a client's settings as a configuration file has them.

use crate::{LockBackend, Locks, LocksBuilder, Result, StoreUrl};
use serde::{Deserialize, Deserializer};
use std::sync::Arc;
use std::time::Duration;

/// A client's settings as a configuration file has them. All but the URL are optional, may stand in the URL as parameters
/// of the same name too, and count before those.
///
/// ```
/// use dlock_core::Config;
/// let config: Config = serde_json::from_str(r#"{ "url": "memory:", "prefix": "billing", "ttl": "10s" }"#)?;
/// assert_eq!(config.ttl.unwrap().as_secs(), 10);
/// assert!(serde_json::from_str::<Config>(r#"{ "url": "memory:", "tll": "10s" }"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Which store.
    pub url: StoreUrl,
    /// See [`LocksBuilder::prefix`].
    #[serde(default)]
    pub prefix: Option<String>,
    /// See [`LocksBuilder::ttl`]; in text, as `30s`.
    #[serde(default, deserialize_with = "duration")]
    pub ttl: Option<Duration>,
    /// See [`LocksBuilder::op_timeout`]; in text, as `5s`.
    #[serde(default, deserialize_with = "duration")]
    pub op_timeout: Option<Duration>,
    /// See [`LocksBuilder::outage`]; in text, as `1m`.
    #[serde(default, deserialize_with = "duration")]
    pub outage: Option<Duration>,
    /// See [`LocksBuilder::local_queue`].
    #[serde(default)]
    pub local_queue: Option<bool>,
    /// See [`LocksBuilder::label`].
    #[serde(default)]
    pub label: Option<String>,
}

impl Config {
    /// The parameters that the URL of every store may have.
    pub const PARAMETERS: &[&str] = &["label", "local_queue", "op_timeout", "outage", "prefix", "ttl"];

    /// A configuration by URL alone.
    pub fn new(url: StoreUrl) -> Self {
        Self { url, prefix: None, ttl: None, op_timeout: None, outage: None, local_queue: None, label: None }
    }

    pub(crate) fn fill_from_url(&mut self) -> Result<()> {
        let url = &self.url;
        self.ttl = self.ttl.or(url.duration("ttl")?);
        self.op_timeout = self.op_timeout.or(url.duration("op_timeout")?);
        self.outage = self.outage.or(url.duration("outage")?);
        self.local_queue = self.local_queue.or(Some(url.flag("local_queue")?));
        self.prefix = self.prefix.take().or_else(|| url.param("prefix").map(str::to_owned));
        self.label = self.label.take().or_else(|| url.param("label").map(str::to_owned));
        Ok(())
    }

    /// How long a single request to the store may take, for a driver's `connect`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) when the URL's parameter can't be read.
    pub fn op_timeout_of(url: &StoreUrl) -> Result<Duration> {
        LocksBuilder::checked_op_timeout(url.duration("op_timeout")?.unwrap_or(LocksBuilder::OP_TIMEOUT))
    }

    pub(crate) fn build(self, backend: Arc<dyn LockBackend>) -> Result<Locks> {
        let mut builder = Locks::builder(backend).local_queue(self.local_queue.unwrap_or(false));
        if let Some(ttl) = self.ttl {
            builder = builder.ttl(ttl);
        }
        if let Some(op_timeout) = self.op_timeout {
            builder = builder.op_timeout(op_timeout);
        }
        if let Some(outage) = self.outage {
            builder = builder.outage(outage);
        }
        if let Some(prefix) = self.prefix {
            builder = builder.prefix(prefix);
        }
        if let Some(label) = self.label {
            builder = builder.label(label);
        }
        builder.build()
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| humantime::parse_duration(&text).map_err(serde::de::Error::custom)).transpose()
}
