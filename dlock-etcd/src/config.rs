//! [`Settings`]: what a URL says.

use crate::names::Names;
use dlock_core::{Config, Error, ErrorKind, Result, StoreUrl};
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use std::time::Duration;

/// What a URL says.
pub(crate) struct Settings {
    pub(crate) endpoints: Vec<String>,
    pub(crate) options: ConnectOptions,
    pub(crate) names: Names,
    pub(crate) op_timeout: Duration,
}

/// The parameters of an etcd URL.
pub(crate) const PARAMETERS: &[&str] = &["ca", "cert", "domain", "key"];

const PORT: u16 = 2379;
const PREFIX: &str = "dlock/";
/// A connection on which nothing comes for so long is asked whether it lives. A server refuses to be asked more than
/// every 5 s by default.
const PING: Duration = Duration::from_secs(10);
/// If it says nothing for so long, it is made anew.
const PONG: Duration = Duration::from_secs(5);

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

impl Settings {
    /// Reads a URL, and the files that it names.
    pub(crate) fn read(url: &StoreUrl) -> Result<Self> {
        let tls = url.scheme() == "etcds";
        if url.hosts().is_empty() {
            return Err(wrong("an etcd URL has hosts; write etcd://host:2379 or etcd://h1:2379,h2:2379/prefix"));
        }
        let endpoint = |host: &dlock_core::Host| {
            let host = dlock_core::Host { port: Some(host.port.unwrap_or(PORT)), ..host.clone() };
            format!("{}://{host}", if tls { "https" } else { "http" })
        };
        let prefix = url.path().strip_prefix('/').unwrap_or_default().trim_end_matches('/');
        if prefix.contains(char::is_control) {
            return Err(wrong("the key prefix in the etcd URL has a control character; take it out"));
        }
        let op_timeout = Config::op_timeout_of(url)?;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(op_timeout)
            .with_tcp_keepalive(PING)
            .with_keep_alive(PING, PONG)
            // A member that is cut off from the others says so, in place of hanging.
            .with_require_leader(true);
        match (url.username(), url.password()) {
            (Some(user), Some(password)) => options = options.with_user(user, password).with_auto_token_refresh(true),
            (None, None) => {}
            _ => return Err(wrong("an etcd URL has both a user and a password, or neither")),
        }
        if tls {
            options = options.with_tls(tls_options(url)?);
        } else if let Some(name) = PARAMETERS.iter().find(|name| url.param(name).is_some()) {
            return Err(wrong(format!("the parameter {name} is for TLS; write etcds:// in place of etcd://")));
        }
        Ok(Self {
            endpoints: url.hosts().iter().map(endpoint).collect(),
            options,
            names: Names::new(if prefix.is_empty() { PREFIX.to_owned() } else { format!("{prefix}/") }),
            op_timeout,
        })
    }
}

fn tls_options(url: &StoreUrl) -> Result<TlsOptions> {
    let Some(ca) = url.file("ca")? else {
        return Err(wrong(
            "an etcds URL needs the parameter ca: the file with the certificate of the server's authority",
        ));
    };
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
    if let Some(domain) = url.param("domain") {
        tls = tls.domain_name(domain);
    }
    match (url.file("cert")?, url.file("key")?) {
        (Some(cert), Some(key)) => tls = tls.identity(Identity::from_pem(cert, key)),
        (None, None) => {}
        _ => return Err(wrong("an etcds URL has both the parameters cert and key, or neither")),
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_core::LockKey;

    fn read(url: &str) -> Result<Settings> {
        Settings::read(&url.parse().unwrap())
    }

    #[test]
    fn hosts_and_prefix_are_read() {
        let settings = read("etcd://h1,h2:2380,[::1]/a/b/?op_timeout=2s").unwrap();
        assert_eq!(settings.endpoints, ["http://h1:2379", "http://h2:2380", "http://[::1]:2379"]);
        assert_eq!(settings.op_timeout, Duration::from_secs(2));
        let key = LockKey::new("c/d").unwrap();
        for (url, folder) in [
            ("etcd://h/a/b/", "a/b/c%2Fd/"),
            ("etcd://h", "dlock/c%2Fd/"),
            ("etcd://h/", "dlock/c%2Fd/"),
            ("etcd://h//locks", "/locks/c%2Fd/"),
        ] {
            assert_eq!(read(url).unwrap().names.folder(&key), folder, "{url}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_without_the_secret() {
        for url in [
            "etcd:",
            "etcd:///a",
            "etcd://user@h",
            "etcd://:hunter2@h",
            "etcd://h?ca=/x",
            "etcds://h",
            "etcds://h?ca=/no/such/file",
            "etcd://h?op_timeout=x",
        ] {
            let error = read(url).err().unwrap_or_else(|| panic!("{url} was taken"));
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}
