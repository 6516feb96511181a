//! [`Settings`]: what the URL says.

#[cfg(feature = "tls")]
use crate::error::from_zk;
use dlock_core::{Config, Error, ErrorKind, Result, StoreUrl};
use std::ops::RangeInclusive;
use std::time::Duration;
use zookeeper_client::{Acls, Client, Connector, CreateMode, CreateOptions};

/// The folder of all locks, unless the URL names another.
const ROOT: &str = "/dlock";
const PORT: u16 = 2181;
/// After so long without a sign of its server, a client connects anew: sooner in short sessions, and no later than its
/// calls give up.
const SILENT: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(10);

/// What the URL says.
pub(crate) struct Settings {
    connector: Connector,
    hosts: String,
    /// The folder of all locks: a path without a slash at its end.
    pub(crate) root: String,
    pub(crate) op_timeout: Duration,
    pub(crate) acls: Acls<'static>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The connector has the credentials.
        f.debug_struct("Settings").field("hosts", &self.hosts).field("root", &self.root).finish_non_exhaustive()
    }
}

impl Settings {
    pub(crate) const SCHEMES: &[&str] = if cfg!(feature = "tls") { &["zk", "zks"] } else { &["zk"] };
    pub(crate) const PARAMETERS: &[&str] = if cfg!(feature = "tls") { &["ca", "cert", "key"] } else { &[] };

    pub(crate) fn new(url: &StoreUrl) -> Result<Self> {
        if url.hosts().is_empty() {
            return Err(wrong("a ZooKeeper URL names its servers; write zk://host:port,host:port/path"));
        }
        let secure = url.scheme() == "zks";
        let protocol = if secure { "tcp+tls" } else { "tcp" };
        let hosts: Vec<_> = url
            .hosts()
            .iter()
            .map(|host| {
                let name = if host.name.contains(':') { format!("[{}]", host.name) } else { host.name.clone() };
                format!("{protocol}://{name}:{}", host.port.unwrap_or(PORT))
            })
            .collect();
        // With all hosts tried once there is an answer; who waits for a server repeats.
        let mut connector = Client::connector().with_fail_eagerly();
        let acls = match (url.username(), url.password()) {
            (None, None) => Acls::anyone_all(),
            (Some(user), Some(password)) => {
                connector = connector.with_auth("digest", format!("{user}:{password}").as_bytes());
                Acls::creator_all()
            }
            _ => return Err(wrong("a ZooKeeper URL has both a user and a password, or neither")),
        };
        if secure {
            connector = with_tls(connector, url)?;
        } else if let Some(name) = url.param_names().find(|name| ["ca", "cert", "key"].contains(name)) {
            return Err(wrong(format!("the parameter {name} is for TLS; write zks:// in place of zk://")));
        }
        let op_timeout = Config::op_timeout_of(url)?;
        Ok(Self { connector, hosts: hosts.join(","), root: root(url.path())?, op_timeout, acls })
    }

    /// A new session, if the servers answer.
    pub(crate) async fn connect(&self, timeout: Duration) -> Result<Client, zookeeper_client::Error> {
        let connector = self.connector.clone().with_session_timeout(timeout);
        connector.with_connection_timeout(silent(timeout, self.op_timeout)).connect(&self.hosts).await
    }

    pub(crate) fn options(&self, mode: CreateMode) -> CreateOptions<'static> {
        mode.with_acls(self.acls)
    }
}

/// How long a connection may be silent before its session goes on by another one. The driver looks at that eight times
/// in the while, and asks the server for a sign of life at three eighths of it, so that a call that was sent on a dead
/// connection is told so before its `op_timeout`, and the next one finds a good one. How soon a single caller gives up
/// does not matter: many locks live by a connection.
fn silent(ttl: Duration, op_timeout: Duration) -> Duration {
    (op_timeout * 4 / 5).clamp(*SILENT.start(), *SILENT.end()).min(ttl * 2 / 5)
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

fn root(path: &str) -> Result<String> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(ROOT.to_owned());
    }
    let good = |segment: &str| !matches!(segment, "" | "." | "..") && !segment.contains(char::is_control);
    if !path.split('/').skip(1).all(good) || path == "/zookeeper" || path.starts_with("/zookeeper/") {
        return Err(wrong("the path of a ZooKeeper URL is no folder for locks; write one such as /apps/locks"));
    }
    Ok(path.to_owned())
}

#[cfg(feature = "tls")]
fn with_tls(connector: Connector, url: &StoreUrl) -> Result<Connector> {
    let unusable = |error| wrong("the certificates in the ZooKeeper URL can't be used").with_source(from_zk(error));
    let Some(ca) = url.file("ca")? else {
        return Err(wrong("a zks URL needs the parameter ca: a PEM file with the authorities of the servers"));
    };
    let mut options = zookeeper_client::TlsOptions::new().with_pem_ca(&ca).map_err(unusable)?;
    match (url.file("cert")?, url.file("key")?) {
        (None, None) => {}
        (Some(cert), Some(key)) => options = options.with_pem_identity(&cert, &key).map_err(unusable)?,
        _ => return Err(wrong("the parameters cert and key of a ZooKeeper URL go together")),
    }
    Ok(connector.with_tls(options))
}

#[cfg(not(feature = "tls"))]
fn with_tls(_: Connector, _: &StoreUrl) -> Result<Connector> {
    let message = "zks URLs need the cargo feature \"tls\" of dlock-zk, which is off; build with it";
    Err(Error::new(ErrorKind::Unsupported, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> Result<Settings> {
        Settings::new(&url.parse()?)
    }

    #[test]
    fn a_url_gives_hosts_and_root() {
        for (url, hosts, root) in [
            ("zk://h1,h2:2182", "tcp://h1:2181,tcp://h2:2182", "/dlock"),
            ("zk://h1/", "tcp://h1:2181", "/dlock"),
            ("zk://[::1]/a/b", "tcp://[::1]:2181", "/a/b"),
            ("zk://u:p@h1/a/", "tcp://h1:2181", "/a"),
        ] {
            let settings = settings(url).unwrap();
            assert_eq!((settings.hosts.as_str(), settings.root.as_str()), (hosts, root), "{url}");
        }
    }

    #[test]
    fn a_silent_connection_is_given_up_before_its_calls_and_long_before_its_session() {
        let millis = Duration::from_millis;
        for (ttl, op_timeout, expected) in
            [(30_000, 5_000, 4_000), (2_000, 5_000, 800), (60_000, 60_000, 10_000), (30_000, 100, 500)]
        {
            assert_eq!(silent(millis(ttl), millis(op_timeout)), millis(expected), "{ttl} and {op_timeout} ms");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_without_the_secret() {
        for url in [
            "zk:/a",
            "zk://u@h",
            "zk://:hunter2@h",
            "zk://h/a//b",
            "zk://h/./a",
            "zk://h/zookeeper",
            "zk://u:hunter2@h/?ca=x",
        ] {
            let error = settings(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        let settings = settings("zk://u:hunter2@h").unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
