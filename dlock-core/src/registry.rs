//! [`Registry`]: which scheme of a URL is which backend.

use crate::config::Config;
use crate::memory::Memory;
use crate::{Error, ErrorKind, LockBackend, Locks, Result, StoreUrl};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::fmt;
use std::sync::Arc;

type Connect = dyn Fn(StoreUrl) -> BoxFuture<'static, Result<Arc<dyn LockBackend>>> + Send + Sync;
type Init = dyn Fn(StoreUrl) -> BoxFuture<'static, Result<String>> + Send + Sync;

/// How a backend is made of a URL.
#[derive(Clone)]
pub struct Driver {
    name: &'static str,
    schemes: &'static [&'static str],
    parameters: &'static [&'static str],
    connect: Arc<Connect>,
    init: Option<Arc<Init>>,
}

impl Driver {
    /// A driver for URLs of `schemes` (in lower case) that may have `parameters` beside those that every URL may have
    /// ([`Config::PARAMETERS`]). `connect` answers within the URL's `op_timeout`.
    pub fn new(
        name: &'static str,
        schemes: &'static [&'static str],
        parameters: &'static [&'static str],
        connect: impl Fn(StoreUrl) -> BoxFuture<'static, Result<Arc<dyn LockBackend>>> + Send + Sync + 'static,
    ) -> Self {
        Self { name, schemes, parameters, connect: Arc::new(connect), init: None }
    }

    /// For a store in which something has to be made before it can keep locks, such as a table. `init` makes it or brings
    /// it up to date, and answers a sentence that says what it did; done twice it changes nothing. It answers within the
    /// URL's `op_timeout`, or as long as the store takes to make a thing.
    #[must_use]
    pub fn with_init(
        mut self,
        init: impl Fn(StoreUrl) -> BoxFuture<'static, Result<String>> + Send + Sync + 'static,
    ) -> Self {
        self.init = Some(Arc::new(init));
        self
    }

    /// The backend's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The schemes of its URLs.
    pub fn schemes(&self) -> &'static [&'static str] {
        self.schemes
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, schemes, parameters, connect: _, init } = self;
        f.debug_struct("Driver")
            .field("name", name)
            .field("schemes", schemes)
            .field("parameters", parameters)
            .field("has_init", &init.is_some())
            .finish()
    }
}

/// The backends that a program can connect to, by the scheme of a URL. A value: what one part of a program registers,
/// another does not see.
#[derive(Clone, Debug)]
pub struct Registry {
    drivers: Vec<Driver>,
    missing: Vec<(&'static [&'static str], &'static str)>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A registry with the memory backend alone: `memory:` is one store a process, `memory:name` another.
    pub fn new() -> Self {
        let memory = Driver::new("memory", &["memory"], &[], |url| {
            let connected = if url.hosts().is_empty() {
                Ok(Arc::new(Memory::named(url.path())) as Arc<dyn LockBackend>)
            } else {
                Err(Error::new(ErrorKind::InvalidConfig, "a memory URL has no host; write memory: or memory:name"))
            };
            std::future::ready(connected).boxed()
        });
        Self { drivers: vec![memory], missing: Vec::new() }
    }

    /// With one more backend; for a scheme that is there already, the new one stands.
    #[must_use]
    pub fn with(mut self, driver: Driver) -> Self {
        self.drivers.insert(0, driver);
        self
    }

    /// With the schemes of a backend whose cargo feature is off, so that the error for them can name it.
    #[must_use]
    pub fn with_missing(mut self, schemes: &'static [&'static str], feature: &'static str) -> Self {
        self.missing.push((schemes, feature));
        self
    }

    /// The backends, the last registered first.
    pub fn drivers(&self) -> &[Driver] {
        &self.drivers
    }

    /// A client by URL alone.
    ///
    /// # Cancel safety
    /// Cancel-safe: nothing is held yet.
    ///
    /// # Errors
    /// As [`Registry::connect_with`].
    pub async fn connect(&self, url: &str) -> Result<Locks> {
        self.connect_with(&Config::new(url.parse()?)).await
    }

    /// A client by configuration.
    ///
    /// # Cancel safety
    /// Cancel-safe: nothing is held yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for a setting that is wrong or unknown, [`ErrorKind::Unsupported`] for a scheme that
    /// is not there, [`ErrorKind::Unavailable`] and [`ErrorKind::Unauthorized`] when the store can't be used.
    pub async fn connect_with(&self, config: &Config) -> Result<Locks> {
        let mut settings = config.clone();
        settings.fill_from_url()?;
        if let Some(op_timeout) = settings.op_timeout {
            let text = humantime::format_duration(op_timeout).to_string();
            settings.url.set_param("op_timeout", text);
        }
        let backend = self.connect_backend(&settings.url).await?;
        settings.build(backend)
    }

    /// A backend by URL, without a client.
    ///
    /// # Cancel safety
    /// Cancel-safe: nothing is held yet.
    ///
    /// # Errors
    /// As [`Registry::connect_with`].
    pub async fn connect_backend(&self, url: &StoreUrl) -> Result<Arc<dyn LockBackend>> {
        let driver = self.driver(url)?;
        (driver.connect)(url.clone()).await.map_err(|error| error.with_backend(driver.name).during("connect", None))
    }

    /// Makes what the store of a URL needs before it can keep locks, or brings it up to date, and says what it did; `None`
    /// for a store that needs nothing. What `dlock init` does.
    ///
    /// # Cancel safety
    /// Dropped halfway it may have made a part; done again it makes the rest.
    ///
    /// # Errors
    /// As [`Registry::connect_with`], and [`ErrorKind::Unauthorized`] when the URL's user may not make it.
    pub async fn init(&self, url: &StoreUrl) -> Result<Option<String>> {
        let driver = self.driver(url)?;
        let Some(init) = &driver.init else { return Ok(None) };
        let done = init(url.clone()).await;
        done.map(Some).map_err(|error| error.with_backend(driver.name).during("init", None))
    }

    /// The driver of a URL whose parameters are all known.
    fn driver(&self, url: &StoreUrl) -> Result<&Driver> {
        let driver = self.driver_of(url.scheme())?;
        let known = |name: &str| driver.parameters.contains(&name) || Config::PARAMETERS.contains(&name);
        if let Some(unknown) = url.param_names().find(|name| !known(name)) {
            let mut names: Vec<_> = driver.parameters.iter().chain(Config::PARAMETERS).copied().collect();
            names.sort_unstable();
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("a {} URL has no parameter {unknown:?}; it may have {}", url.scheme(), names.join(", ")),
            ));
        }
        Ok(driver)
    }

    fn driver_of(&self, scheme: &str) -> Result<&Driver> {
        if let Some(driver) = self.drivers.iter().find(|driver| driver.schemes.contains(&scheme)) {
            return Ok(driver);
        }
        let message = match self.missing.iter().find(|(schemes, _)| schemes.contains(&scheme)) {
            Some((_, feature)) => {
                format!("{scheme} URLs need the cargo feature {feature:?}, which is off; build with it")
            }
            None => {
                let known: Vec<_> = self.drivers.iter().flat_map(|driver| driver.schemes).copied().collect();
                format!("no backend is known for {scheme} URLs; there are {}", known.join(", "))
            }
        };
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}
