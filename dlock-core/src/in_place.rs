//! [`InPlace`]: a future that is never dropped halfway.

use crate::{BoxFuture, Cancel};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;

/// Polls a boxed future where it is, so that the usual case spawns nothing. Dropped halfway it fires the future's
/// cancel and moves it to the client's own runtime, where it ends. Never polled, it does nothing.
pub(crate) struct InPlace<T: Send + 'static> {
    future: Option<BoxFuture<T>>,
    cancel: Option<Cancel>,
    runtime: Handle,
    begun: bool,
}

impl<T: Send + 'static> InPlace<T> {
    pub(crate) fn new(runtime: Handle, cancel: Option<Cancel>, future: BoxFuture<T>) -> Self {
        Self { future: Some(future), cancel, runtime, begun: false }
    }

    /// From now on it ends even if it is never polled.
    pub(crate) fn begin(&mut self) {
        self.begun = true;
    }
}

impl<T: Send + 'static> Future for InPlace<T> {
    type Output = T;

    /// # Panics
    /// When it is polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        // Timers and sockets that the future makes must belong to the runtime on which it may have to end.
        let _runtime = this.runtime.enter();
        this.begun = true;
        let future = this.future.as_mut().expect("polled after it was ready");
        let output = std::task::ready!(future.as_mut().poll(context));
        this.future = None;
        Poll::Ready(output)
    }
}

impl<T: Send + 'static> Drop for InPlace<T> {
    fn drop(&mut self) {
        let Some(future) = self.future.take_if(|_| self.begun) else { return };
        if let Some(cancel) = &self.cancel {
            cancel.fire();
        }
        // If that runtime is gone this drops the future: then the store's TTL ends what it did.
        self.runtime.spawn(future);
    }
}

/// Declares a named future over [`InPlace`] with its documentation.
macro_rules! named_future {
    ($(#[$docs:meta])* $name:ident -> $output:ty) => {
        $(#[$docs])*
        #[must_use = "nothing is sent until it is awaited"]
        pub struct $name(pub(crate) crate::in_place::InPlace<$output>);

        impl Future for $name {
            type Output = $output;

            fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<$output> {
                std::pin::Pin::new(&mut self.0).poll(context)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}
pub(crate) use named_future;
