//! [`Proxy`]: a line between a client and its server, with faults in it.

mod framing;
mod in_process;
mod line;
mod pump;
mod rule;

pub use framing::Framing;
pub use line::Way;
pub use rule::{Action, Requests, Rule};

use line::Line;
use pump::Pump;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{AbortHandle, JoinSet};

/// A line between a client and its server, on which requests and replies are lost, held back or doubled as ordered.
/// Clones are the same line; with the last one all its connections end.
///
/// [`Proxy::tcp`] listens on a port of 127.0.0.1 and passes on what comes to a server. [`Proxy::in_process`] is for stores
/// that are no servers: a wrapper of the backend asks it before each call.
#[derive(Clone)]
pub struct Proxy {
    line: Arc<Line>,
    tcp: Option<Arc<Tcp>>,
}

struct Tcp {
    address: SocketAddr,
    /// Bound and never listening: keeps the port while nothing listens there.
    _port: TcpSocket,
    serving: AbortHandle,
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Proxy {
    /// A line to the server at `upstream` (`host:port`), which speaks `framing`.
    ///
    /// # Errors
    /// When no port can be had.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn tcp(framing: Framing, upstream: impl Into<String>) -> io::Result<Self> {
        let port = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = port.local_addr()?;
        let line = Arc::new(Line::default());
        let serving = tokio::spawn(serve(line.clone(), address, framing, upstream.into())).abort_handle();
        line.applied(false).await;
        Ok(Self { line, tcp: Some(Arc::new(Tcp { address, _port: port, serving })) })
    }

    /// A line without a connection, for [`Proxy::carry`].
    pub fn in_process() -> Self {
        let line = Arc::new(Line::default());
        Self { line, tcp: None }
    }

    /// Where clients connect to.
    ///
    /// # Panics
    /// When it is a line in process.
    pub fn address(&self) -> SocketAddr {
        self.tcp.as_ref().expect("a line in process has no address").address
    }

    /// Orders `action` for the `nth` (from 0) of the `requests` that come from now on.
    pub fn on(&self, requests: Requests, nth: usize, action: Action) -> Rule {
        self.line.add(Rule::new(requests, nth, action))
    }

    /// Counts the `requests` that come from now on: [`Rule::seen`].
    pub fn count(&self, requests: Requests) -> Rule {
        self.on(requests, usize::MAX, Action::Pass)
    }

    /// Resets all connections and refuses new ones, until [`Proxy::heal`]. Returns when that is so.
    pub async fn cut(&self) {
        self.line.change(|state| state.cut = true);
        if self.tcp.is_some() {
            self.line.applied(true).await;
        }
    }

    /// Lets nothing pass in a direction: it is kept, and passes when the line is healed. New connections are accepted.
    pub fn freeze(&self, way: Way) {
        self.line.change(|state| state.of(way).frozen = true);
    }

    /// Freezes both directions: the server accepts and never answers.
    pub fn freeze_both(&self) {
        self.freeze(Way::Up);
        self.freeze(Way::Down);
    }

    /// What passes in a direction takes so much longer.
    pub fn delay(&self, way: Way, by: Duration) {
        self.line.change(|state| state.of(way).delay = by);
    }

    /// Ends cut, freezing and delay. Returns when clients may connect again.
    pub async fn heal(&self) {
        self.line.change(|state| *state = line::State::default());
        if self.tcp.is_some() {
            self.line.applied(false).await;
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.tcp.as_ref().map(|tcp| tcp.address))
            .field("line", &self.line)
            .finish()
    }
}

/// Two sockets may have the port: one that keeps it, and one that listens while the line is not cut.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    #[cfg(unix)]
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn serve(line: Arc<Line>, address: SocketAddr, framing: Framing, upstream: String) {
    let upstream: Arc<str> = upstream.into();
    loop {
        line.until(|state| !state.cut).await;
        let listener: TcpListener =
            bind(address).and_then(|socket| socket.listen(1024)).expect("the port is kept for this");
        line.apply(false);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                _ = line.until(|state| state.cut) => break,
                accepted = listener.accept() => if let Ok((client, _)) = accepted {
                    connections.spawn(Pump::carry(line.clone(), framing, client, upstream.clone()));
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        // Each sees for itself that the line is cut.
        while connections.join_next().await.is_some() {}
        line.apply(true);
    }
}
