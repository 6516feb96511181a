//! [`Link`]: what connects one worker, or a member of a cluster, to servers, and may be cut. It knows bytes only.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How a link is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    /// Connections are reset and new ones refused.
    pub(crate) cut: bool,
    /// Requests are held up.
    pub(crate) holds_requests: bool,
    /// Replies are held up.
    pub(crate) holds_replies: bool,
    /// A connection on which a reply comes is reset instead.
    pub(crate) loses_replies: bool,
    /// How long everything takes.
    pub(crate) delay: Duration,
}

/// A TCP proxy before each of some servers, for one client of theirs.
#[derive(Debug)]
pub(crate) struct Link {
    ports: Vec<u16>,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Request,
    Reply,
}

impl Link {
    /// Listens on a port of its own for each server, for as long as the runtime lives.
    pub(crate) async fn open(servers: &[u16]) -> std::io::Result<Self> {
        let (mut ports, state) = (Vec::new(), watch::Sender::new(State::default()));
        for server in servers.iter().copied() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            ports.push(listener.local_addr()?.port());
            let seen = state.subscribe();
            tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    if seen.borrow().cut {
                        reset(&client);
                        continue;
                    }
                    tokio::spawn(connect(client, server, seen.clone()));
                }
            });
        }
        Ok(Self { ports, state })
    }

    /// Where each server is reached through it.
    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    pub(crate) fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

/// Closing it will be told by RST.
fn reset(stream: &TcpStream) {
    // What can't be reset is closed.
    let _ = stream.set_zero_linger();
}

/// The link was cut, or a reply is to be lost.
#[derive(Debug)]
struct Broken;

async fn connect(client: TcpStream, server: u16, state: watch::Receiver<State>) {
    let Ok(upstream) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, server))).await else {
        return reset(&client);
    };
    for stream in [&client, &upstream] {
        // Without it everything is a little later.
        let _ = stream.set_nodelay(true);
    }
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = upstream.into_split();
    // Each way ends by itself: a request whose client has gone still arrives.
    let requests = carry(&mut from_client, &mut to_server, Way::Request, state.clone());
    let replies = carry(&mut from_server, &mut to_client, Way::Reply, state);
    if tokio::try_join!(requests, replies).is_err() {
        reset(to_client.as_ref());
        reset(to_server.as_ref());
    }
}

/// Carries bytes one way until that way ends or the connection is broken.
async fn carry(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    way: Way,
    mut state: watch::Receiver<State>,
) -> Result<(), Broken> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let length = tokio::select! {
            length = from.read(&mut bytes) => length.unwrap_or(0),
            _ = state.wait_for(|state| state.cut) => return Err(Broken),
        };
        let now = *state.borrow();
        if way == Way::Reply && now.loses_replies {
            return Err(Broken);
        }
        if !now.delay.is_zero() {
            tokio::time::sleep(now.delay).await;
        }
        let holds = |state: &State| match way {
            Way::Request => state.holds_requests,
            Way::Reply => state.holds_replies,
        };
        if state.wait_for(|state| state.cut || !holds(state)).await.is_ok_and(|state| state.cut) {
            return Err(Broken);
        }
        if length == 0 {
            let _ = to.shutdown().await;
            return Ok(());
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return Ok(());
        }
    }
}
