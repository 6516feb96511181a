//! [`HolderId`]: one acquisition.

use crate::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Who holds or waits: the id of one acquisition, never used for a second one.
///
/// This library's ids are 128 random bits as 32 lower-case hexadecimal digits. A foreign client's id (of redis-py,
/// say) is whatever text it wrote.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HolderId(Arc<str>);

impl HolderId {
    /// A new id of 128 random bits.
    pub fn random() -> Self {
        let mut text = [0; uuid::fmt::Simple::LENGTH];
        Self((&*uuid::Uuid::new_v4().simple().encode_lower(&mut text)).into())
    }

    /// An id as a store has it, also a foreign client's.
    pub fn from_store(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HolderId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::new(ErrorKind::InvalidConfig, "a holder id is empty"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
