//! A contender from two closures, for clients whose whole use fits on a screen.

use async_trait::async_trait;
use dlock_bench::{Client, Contender, Held, Result};
use std::sync::Arc;

struct Made<M>(M);
struct Acquires<A>(A);
struct Releases<R>(R);

/// A contender: `make` connects and gives what acquires a key, which gives the future that releases it.
pub(crate) fn contender<M, Making, A, Acquiring, Releasing>(make: M) -> impl Contender
where
    M: Fn() -> Making + Send + Sync + 'static,
    Making: Future<Output = Result<A>> + Send,
    A: Fn(String) -> Acquiring + Send + Sync + 'static,
    Acquiring: Future<Output = Result<Releasing>> + Send,
    Releasing: Future<Output = Result<()>> + Send + 'static,
{
    Made(make)
}

#[async_trait]
impl<M, Making, A, Acquiring, Releasing> Contender for Made<M>
where
    M: Fn() -> Making + Send + Sync,
    Making: Future<Output = Result<A>> + Send,
    A: Fn(String) -> Acquiring + Send + Sync + 'static,
    Acquiring: Future<Output = Result<Releasing>> + Send,
    Releasing: Future<Output = Result<()>> + Send + 'static,
{
    async fn client(&self) -> Result<Arc<dyn Client>> {
        Ok(Arc::new(Acquires((self.0)().await?)))
    }
}

#[async_trait]
impl<A, Acquiring, Releasing> Client for Acquires<A>
where
    A: Fn(String) -> Acquiring + Send + Sync,
    Acquiring: Future<Output = Result<Releasing>> + Send,
    Releasing: Future<Output = Result<()>> + Send + 'static,
{
    async fn acquire(&self, key: &str) -> Result<Box<dyn Held>> {
        Ok(Box::new(Releases((self.0)(key.to_owned()).await?)))
    }
}

#[async_trait]
impl<R: Future<Output = Result<()>> + Send> Held for Releases<R> {
    async fn release(self: Box<Self>) -> Result<()> {
        self.0.await
    }
}
