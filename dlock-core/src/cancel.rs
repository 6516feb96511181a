//! [`Cancel`]: tells a running call that nobody wants its result any more.

use tokio_util::sync::CancellationToken;

/// Tells a running [`acquire`](crate::LockBackend::acquire) that nobody wants its result any more.
///
/// Clones share the state; once fired it stays fired.
#[derive(Clone, Debug, Default)]
pub struct Cancel(CancellationToken);

impl Cancel {
    /// One that has not fired.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fires: every waiting [`Cancel::fired`] resolves.
    pub fn fire(&self) {
        self.0.cancel();
    }

    /// Whether it has fired.
    pub fn is_fired(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves once it has fired.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn fired(&self) {
        self.0.cancelled().await;
    }
}
