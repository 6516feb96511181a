//! Contenders from two closures, for clients whose whole use fits on a screen; and chains of their pairs.

use async_trait::async_trait;
use dlock_bench::{Client, Contender, Held, Result};
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard};

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

struct Chained<C>(C);

struct Chain {
    client: Arc<dyn Client>,
    turn: Arc<Mutex<()>>,
}

struct Link {
    held: Box<dyn Held>,
    turn: OwnedMutexGuard<()>,
}

/// The pairs of `contender`, by one task of a client after the other, who queue in the process: in the store nobody waits.
/// What a lock reaches whose hand-over costs no more than its pair.
pub(crate) fn chained(contender: impl Contender + 'static) -> impl Contender {
    Chained(contender)
}

#[async_trait]
impl<C: Contender> Contender for Chained<C> {
    async fn client(&self) -> Result<Arc<dyn Client>> {
        Ok(Arc::new(Chain { client: self.0.client().await?, turn: Arc::default() }))
    }
}

#[async_trait]
impl Client for Chain {
    async fn acquire(&self, key: &str) -> Result<Box<dyn Held>> {
        let turn = self.turn.clone().lock_owned().await;
        Ok(Box::new(Link { held: self.client.acquire(key).await?, turn }))
    }
}

#[async_trait]
impl Held for Link {
    async fn release(self: Box<Self>) -> Result<()> {
        let Self { held, turn } = *self;
        let released = held.release().await;
        drop(turn);
        released
    }
}
