//! [`StoreUrl`]: which store, where, and how.

use crate::{Error, ErrorKind, Result};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Which store, where, and how: `scheme://user:password@host:port,host:port/path?parameter=value`, or
/// `scheme:path?parameter=value` for a store without hosts.
///
/// User, password, path and parameters are percent-decoded; write `%`, `?`, `#` and, in a password, `@` as `%25`, `%3F`,
/// `%23` and `%40`. `Debug` and `Display` show neither password nor any parameter that is named like a secret.
///
/// ```
/// use dlock_core::StoreUrl;
/// let url: StoreUrl = "redis://app:s3cret@cache:6380/2?ttl=10s".parse()?;
/// assert_eq!((url.scheme(), url.hosts()[0].port, url.path()), ("redis", Some(6380), "/2"));
/// assert_eq!(url.to_string(), "redis://app:***@cache:6380/2?ttl=10s");
/// # Ok::<(), dlock_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct StoreUrl {
    scheme: String,
    username: Option<String>,
    password: Option<String>,
    hosts: Vec<Host>,
    path: String,
    params: Vec<(String, String)>,
}

/// One host of a [`StoreUrl`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name or address, an IPv6 address without its brackets.
    pub name: String,
    /// Its port, if it stands in the URL.
    pub port: Option<u16>,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]", self.name)?
        } else {
            f.write_str(&self.name)?
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl StoreUrl {
    /// The scheme, in lower case: `redis`.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user, if there is one and it is not empty.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// The password. Keep it out of messages.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The hosts, in the order of the URL; none in a URL without `//`.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// What stands between the hosts (or the scheme) and the parameters, its leading slash included.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A parameter's value.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The names of all parameters.
    pub fn param_names(&self) -> impl Iterator<Item = &str> {
        self.params.iter().map(|(name, _)| name.as_str())
    }

    /// A parameter as any type that is read from text.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when it can't be read.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<Option<T>> {
        let read = |value: &str| value.parse().map_err(|error| self.bad_param(name, &format!("{error}")));
        self.param(name).map(read).transpose()
    }

    /// A parameter as a duration: `30s`, `1m 30s`, `250ms`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when it is none.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>> {
        let read = |value| {
            humantime::parse_duration(value)
                .map_err(|error| self.bad_param(name, &format!("{error}; write a duration such as 30s or 250ms")))
        };
        self.param(name).map(read).transpose()
    }

    /// The text of the file that a parameter names, such as a certificate in PEM.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when it can't be read.
    pub fn file(&self, name: &str) -> Result<Option<String>> {
        let Some(file) = self.param(name) else { return Ok(None) };
        std::fs::read_to_string(file).map(Some).map_err(|error| {
            let message = format!("the file of the parameter {name}, {file}, can't be read");
            Error::new(ErrorKind::InvalidConfig, message).with_source(error)
        })
    }

    /// A parameter as a switch, off unless it is there: `true`, `false`, or its name alone.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when it is neither.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.param(name) {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(_) => Err(self.bad_param(name, "write true or false")),
        }
    }

    pub(crate) fn set_param(&mut self, name: &str, value: String) {
        self.params.retain(|(known, _)| known != name);
        self.params.push((name.to_owned(), value));
    }

    fn bad_param(&self, name: &str, what: &str) -> Error {
        invalid(format!("the parameter {name} of the {} URL can't be read: {what}", self.scheme))
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

fn decoded(text: &str, part: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(invalid(format!("the {part} of the store URL is not UTF-8 once it is percent-decoded"))),
    }
}

impl FromStr for StoreUrl {
    type Err = Error;

    /// # Errors
    /// [`ErrorKind::InvalidConfig`]; the message shows nothing that could be a secret.
    fn from_str(text: &str) -> Result<Self> {
        let form = "write scheme://host:port/path?parameter=value, or scheme:path";
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(invalid(format!("the store URL has no scheme; {form}")));
        };
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        if !is_scheme {
            return Err(invalid(format!("the store URL does not begin with a scheme; {form}")));
        }
        if rest.contains('#') {
            return Err(invalid("the store URL has a '#'; write it as %23".to_owned()));
        }
        if rest.contains(char::is_control) {
            return Err(invalid("the store URL has a control character; take it out".to_owned()));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = StoreUrl {
            scheme: scheme.to_ascii_lowercase(),
            username: None,
            password: None,
            hosts: Vec::new(),
            path: String::new(),
            params: Vec::new(),
        };
        let path = match rest.strip_prefix("//") {
            None => rest,
            Some(rest) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                url.read_authority(authority)?;
                path
            }
        };
        url.path = decoded(path, "path")?;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if url.param(&name).is_some() {
                return Err(invalid(format!("the parameter {name} stands twice in the store URL")));
            }
            url.params.push((name.into_owned(), value.into_owned()));
        }
        Ok(url)
    }
}

impl StoreUrl {
    fn read_authority(&mut self, authority: &str) -> Result<()> {
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(userinfo), hosts),
            None => (None, authority),
        };
        if let Some(userinfo) = userinfo {
            let (user, password) = match userinfo.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (userinfo, None),
            };
            self.username = Some(decoded(user, "user")?).filter(|user| !user.is_empty());
            self.password = password.map(|password| decoded(password, "password")).transpose()?;
        }
        // `scheme:///path` has no host.
        if !hosts.is_empty() {
            self.hosts = hosts.split(',').map(read_host).collect::<Result<_>>()?;
        }
        Ok(())
    }
}

fn read_host(text: &str) -> Result<Host> {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, rest)) => (name, rest.strip_prefix(':').or(rest.is_empty().then_some(""))),
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, Some("")),
        },
    };
    let port = match port {
        Some("") => None,
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
            invalid("a port in the store URL is no number from 1 to 65535 (or the password needs %-escapes)".to_owned())
        })?),
        None => return Err(invalid("an address in brackets in the store URL is followed by no ':port'".to_owned())),
    };
    if name.is_empty() {
        return Err(invalid("a host in the store URL is empty; write host:port".to_owned()));
    }
    Ok(Host { name: decoded(name, "host")?, port })
}

impl TryFrom<String> for StoreUrl {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if !self.hosts.is_empty() || self.username.is_some() || self.password.is_some() {
            f.write_str("//")?;
            let password = if self.password.is_some() { ":***" } else { "" };
            if self.username.is_some() || self.password.is_some() {
                write!(f, "{}{password}@", self.username.as_deref().unwrap_or_default())?;
            }
            let hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
            f.write_str(&hosts.join(","))?;
        }
        f.write_str(&self.path)?;
        for (at, (name, value)) in self.params.iter().enumerate() {
            let secret = ["password", "secret", "token"].iter().any(|word| name.to_ascii_lowercase().contains(word));
            write!(f, "{}{name}={}", if at == 0 { '?' } else { '&' }, if secret { "***" } else { value })?;
        }
        Ok(())
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let url: StoreUrl = "etcd://root:p%40ss@h1:2379,[::1]:2380,h3/a%2Fb?x=1+2&on".parse().unwrap();
        let hosts: Vec<_> = url.hosts().iter().map(|host| (host.name.as_str(), host.port)).collect();
        assert_eq!(hosts, [("h1", Some(2379)), ("::1", Some(2380)), ("h3", None)]);
        assert_eq!((url.username(), url.password(), url.path()), (Some("root"), Some("p@ss"), "/a/b"));
        assert_eq!((url.param("x"), url.flag("on").unwrap(), url.flag("off").unwrap()), (Some("1 2"), true, false));
        for (text, path) in
            [("memory:", ""), ("local:/a/b.db", "/a/b.db"), ("local:rel.db", "rel.db"), ("local:///c", "/c")]
        {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!((url.hosts().len(), url.path()), (0, path), "{text}");
        }
        assert_eq!("REDIS://h?ttl=1m 30s".parse::<StoreUrl>().unwrap().duration("ttl").unwrap().unwrap().as_secs(), 90);
    }

    #[test]
    fn what_is_no_url_is_refused_with_what_to_do_and_without_the_secret() {
        for text in [
            "",
            "redis",
            "://h",
            "1x://h",
            "redis://h:70000",
            "redis://h:0",
            "redis://u:hunter2@:1",
            "redis://h,",
            "redis://[::1]x",
            "redis://h?a=1&a=2",
            "local:/a#b",
            "redis://u:hun#ter2@h",
            "redis://u:hunter2/3@h",
            "redis://%ff@h",
            "redis://h\n",
        ] {
            let error = text.parse::<StoreUrl>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{text}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let url: StoreUrl = "redis://:hunter2@h/0?Password=hunter2&access_token=hunter2&x=1".parse().unwrap();
        assert_eq!(format!("{url:?}"), "redis://:***@h/0?Password=***&access_token=***&x=1");
        assert!(!url.flag("x").unwrap_err().to_string().contains("hunter2"));
    }
}
