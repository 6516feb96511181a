//! [`Error`]: what could not be done, whether it may have happened all the same, and what to do about it.

use crate::{LockInfo, LockKey, LostCause};
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what a caller would do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A URL, a TTL, a limit or another setting is wrong.
    InvalidConfig,
    /// A lock key is empty, too long or has a control character.
    InvalidKey,
    /// The backend, or the feature it needs, is not there.
    Unsupported,
    /// The store refused the credentials, or they lack a right.
    Unauthorized,
    /// The store did not answer, or said that it can't now.
    Unavailable,
    /// `wait_at_most` ran out while others held the lock; [`Error::lock_info`] says who.
    TimedOut,
    /// The lease is no longer held; [`Error::lost_cause`] says why.
    LeaseLost,
    /// The store has something under this key that can't be read; it was left as it is.
    Corrupt,
    /// The client was closed, or its runtime is gone.
    Closed,
    /// Anything else.
    Unexpected,
}

/// Whether the operation that failed may have changed the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The store was not changed.
    NotApplied,
    /// The request may have been carried out, or may be yet.
    Unknown,
}

/// An error of any operation: one pointer wide.
///
/// `Display` is one sentence without its source (`redis: could not renew "jobs/7": the server did not answer`); walk
/// [`source`](StdError::source) for the rest.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    effect: Effect,
    message: Cow<'static, str>,
    backend: Option<&'static str>,
    operation: Option<&'static str>,
    key: Option<LockKey>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    info: Option<LockInfo>,
    lost: Option<LostCause>,
}

impl Error {
    /// An error that changed nothing in the store. `message` is one lower-case sentence that ends with what to do,
    /// where something can be done.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            effect: Effect::NotApplied,
            message: message.into(),
            backend: None,
            operation: None,
            key: None,
            source: None,
            info: None,
            lost: None,
        }))
    }

    /// A lease that is no longer held, and why.
    pub fn lost(cause: LostCause) -> Self {
        let mut error = Self::new(ErrorKind::LeaseLost, format!("the lease was lost: {cause}"));
        error.0.lost = Some(cause);
        error
    }

    /// With what caused it. Never put a secret into the source's text.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// With whether the store may have been changed.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.0.effect = effect;
        self
    }

    /// With the backend's name.
    #[must_use]
    pub fn with_backend(mut self, name: &'static str) -> Self {
        self.0.backend = Some(name);
        self
    }

    /// With the operation (`"acquire"`, `"renew"` …) and the key that it was for. What is already set stays.
    #[must_use]
    pub fn during(mut self, operation: &'static str, key: Option<&LockKey>) -> Self {
        self.0.operation = self.0.operation.or(Some(operation));
        self.0.key = self.0.key.take().or_else(|| key.cloned());
        self
    }

    /// With the lock as it was last seen.
    #[must_use]
    pub fn with_lock_info(mut self, info: LockInfo) -> Self {
        self.0.info = Some(info);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the store may have been changed.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Whether the same call may succeed later: the store did not answer or said that it can't now.
    pub fn is_retryable(&self) -> bool {
        self.0.kind == ErrorKind::Unavailable
    }

    /// The backend's name.
    pub fn backend(&self) -> Option<&'static str> {
        self.0.backend
    }

    /// The operation: `acquire`, `renew`, `release`, …
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The key that the operation was for.
    pub fn key(&self) -> Option<&LockKey> {
        self.0.key.as_ref()
    }

    /// The lock as it was last seen, with [`ErrorKind::TimedOut`].
    pub fn lock_info(&self) -> Option<&LockInfo> {
        self.0.info.as_ref()
    }

    /// The error and all its sources in one line, for logs.
    pub fn chain(&self) -> impl fmt::Display + '_ {
        Chain(self)
    }

    /// Why a lease was lost, with [`ErrorKind::LeaseLost`].
    pub fn lost_cause(&self) -> Option<LostCause> {
        self.0.lost
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(backend) = self.0.backend {
            write!(f, "{backend}: ")?;
        }
        if let Some(operation) = self.0.operation {
            write!(f, "could not {operation}")?;
            if let Some(key) = &self.0.key {
                write!(f, " {key:?}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.0.message)
    }
}

struct Chain<'a>(&'a Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut last, mut source) = (self.0.to_string(), self.0.source());
        f.write_str(&last)?;
        while let Some(error) = source {
            // Some wrappers show what they wrap.
            let text = error.to_string();
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            (last, source) = (text, error.source());
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind).field("effect", &self.0.effect).field("message", &self.to_string());
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_pointer_wide_and_reads_as_one_sentence() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        let error = Error::new(ErrorKind::Unavailable, "no answer within 2s")
            .with_backend("redis")
            .during("renew", LockKey::new("jobs/7").ok().as_ref())
            .with_effect(Effect::Unknown);
        assert_eq!(error.to_string(), r#"redis: could not renew "jobs/7": no answer within 2s"#);
        assert!(error.is_retryable());
        assert_eq!(error.effect(), Effect::Unknown);
    }
}
