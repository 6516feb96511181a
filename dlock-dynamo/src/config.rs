//! What a URL says.

use crate::DynamoBackend;
use dlock_core::{
    Capabilities, Config, Driver, Error, ErrorKind, Lifetime, LockBackend, Result, Shows, StoreUrl, TokenSurvives, Ttl,
    TtlRange, Wake,
};
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::Duration;

/// What a URL says. Credentials are read where the client is made.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) table: String,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) create: bool,
    pub(crate) deletion_protection: bool,
    pub(crate) poll: Duration,
    pub(crate) clock_margin: Duration,
    pub(crate) op_timeout: Duration,
}

/// The parameters of a `dynamodb:` URL.
const PARAMETERS: &[&str] = &["region", "endpoint", "create", "deletion_protection", "poll", "clock_margin"];

/// How far apart waiters look, unless the URL says otherwise: each look costs a read.
const POLL: Duration = Duration::from_millis(500);
/// The looks of a client are up to this many times as far apart, so that clients do not look all at once.
pub(crate) const JITTER: f64 = 1.25;
/// With its jitter no more than the 5 s after which a waiter must repeat its request to keep its place.
const LONGEST_POLL: Duration = Duration::from_secs(4);
/// How far apart the clocks of the service's servers may be, unless the URL says otherwise (rule C4).
const CLOCK_MARGIN: Duration = Duration::from_secs(2);
/// The `Date` of a reply names a whole second.
const SECOND: Duration = Duration::from_secs(1);
/// Many servers answer, and some keep the text of `Date` for a moment: readings that are so far apart are no jump of
/// the clock. More than that is, and costs a watched TTL (rule C2).
pub(crate) const UNEVEN: Duration = Duration::from_millis(250);
/// How long a reading's time may stand still: the second, and what the servers are apart on both sides.
pub(crate) const GRANULARITY: Duration = Duration::from_millis(1_500);
/// What requests and timers add to the lateness.
const LATENESS: Duration = Duration::from_millis(200);
/// A lease lasts at least so many looks: a waiter that repeats its request each third of its patience looks in between.
const LOOKS: u32 = 4;

impl Settings {
    pub(crate) fn of(url: &StoreUrl) -> Result<Self> {
        let wrong = |message: String| Err(Error::new(ErrorKind::InvalidConfig, message));
        let [table] = url.hosts() else {
            return wrong("a DynamoDB URL names one table; write dynamodb://table?region=eu-central-1".to_owned());
        };
        if table.port.is_some() || !url.path().trim_start_matches('/').is_empty() {
            return wrong(
                "a DynamoDB URL names a table, not a host; give a server of your own as endpoint=http://host:port"
                    .to_owned(),
            );
        }
        let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !(3..=255).contains(&table.name.len()) || !is_name(&table.name) {
            return wrong(format!(
                "{:?} is no name of a table; it has 3 to 255 letters, digits, underscores, dots and hyphens",
                table.name
            ));
        }
        let endpoint = url.param("endpoint").map(str::to_owned);
        if endpoint
            .as_ref()
            .is_some_and(|endpoint| !endpoint.starts_with("http://") && !endpoint.starts_with("https://"))
        {
            return wrong("the parameter endpoint begins with http:// or https://".to_owned());
        }
        let poll = url.duration("poll")?.unwrap_or(POLL);
        if !(Duration::from_millis(10)..=LONGEST_POLL).contains(&poll) {
            return wrong("the parameter poll is out of range; give a duration from 10ms to 4s".to_owned());
        }
        let clock_margin = url.duration("clock_margin")?.unwrap_or(CLOCK_MARGIN);
        if !(CLOCK_MARGIN..=Duration::from_secs(3600)).contains(&clock_margin) {
            return wrong("the parameter clock_margin is out of range; give a duration from 2s to 1h".to_owned());
        }
        Ok(Self {
            table: table.name.clone(),
            region: url.param("region").map(str::to_owned),
            endpoint,
            create: url.flag("create")?,
            deletion_protection: url.flag("deletion_protection")?,
            poll,
            clock_margin,
            op_timeout: Config::op_timeout_of(url)?,
        })
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        let mut capabilities = DYNAMO_CAPABILITIES;
        capabilities.wake = Wake::Poll(self.poll.mul_f64(JITTER));
        capabilities.ttl.min = SECOND.max(self.poll * LOOKS);
        capabilities.lateness = 2 * GRANULARITY + self.clock_margin + LATENESS;
        capabilities
    }
}

/// What this backend can do, with the parameters' defaults.
pub const DYNAMO_CAPABILITIES: Capabilities = Capabilities {
    shared: true,
    permits: true,
    fifo: true,
    wake: Wake::Poll(Duration::from_millis(625)),
    ttl: TtlRange { min: Duration::from_secs(2), step: Duration::from_millis(1), max: Ttl::MAX_DURATION },
    lifetime: Lifetime::Lease,
    lateness: Duration::from_millis(5_200),
    death_seen_within: None,
    token_survives: TokenSurvives { restart: true, data_loss: true },
    leases_survive_restart: true,
    fence_floor: true,
    shows: Shows { label: true, remaining: true, since: true, waiters: true },
};

/// The driver of `dynamodb:` URLs.
pub fn driver() -> Driver {
    Driver::new("dynamodb", &["dynamodb"], PARAMETERS, |url| {
        async move { Ok(Arc::new(DynamoBackend::new(crate::DynamoStore::connect(&url).await?)) as Arc<dyn LockBackend>) }
            .boxed()
    })
    .with_init(|url| async move { crate::DynamoStore::init(&url).await }.boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constant_is_what_the_defaults_give() {
        let settings = Settings::of(&"dynamodb://locks".parse().unwrap()).unwrap();
        assert_eq!(settings.capabilities(), DYNAMO_CAPABILITIES);
        let quick = Settings::of(&"dynamodb://locks?poll=50ms&clock_margin=3s".parse().unwrap()).unwrap();
        assert_eq!(quick.capabilities().ttl.min, SECOND);
        assert_eq!(quick.capabilities().lateness, Duration::from_millis(6_200));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (url, word) in [
            ("dynamodb:locks", "names one table"),
            ("dynamodb://a,b", "names one table"),
            ("dynamodb://locks:8000", "endpoint="),
            ("dynamodb://locks/other", "endpoint="),
            ("dynamodb://ab", "no name of a table"),
            ("dynamodb://lo%2Fcks", "no name of a table"),
            ("dynamodb://locks?endpoint=localhost:8000", "begins with http"),
            ("dynamodb://locks?poll=1ms", "10ms to 4s"),
            ("dynamodb://locks?clock_margin=1s", "2s to 1h"),
            ("dynamodb://locks?create=maybe", "true or false"),
        ] {
            let error = Settings::of(&url.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(error.to_string().contains(word), "{url}: {error}");
        }
    }
}
