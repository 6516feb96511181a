//! [`Pump`]: one connection through the proxy.

use super::framing::{Conversation, Down, Framing};
use super::line::{Line, Way};
use super::rule::{Action, Rule};
use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

/// One connection: what was said on it, and which replies are awaited by a rule.
pub(super) struct Pump {
    line: Arc<Line>,
    talk: Mutex<Talk>,
    /// Nothing passes any more.
    stalled: watch::Sender<bool>,
}

struct Talk {
    wire: Box<dyn Conversation>,
    awaited: HashMap<u64, VecDeque<Awaited>>,
    /// The server has ended the connection: it answers nothing any more.
    is_over: bool,
}

enum Awaited {
    By(Rule),
    /// The reply to a request's second copy.
    Copy,
}

/// The connection ends, and its client sees a reset.
struct Reset;

impl From<io::Error> for Reset {
    fn from(_: io::Error) -> Self {
        Reset
    }
}

impl Pump {
    /// Carries a client's connection to the server until either ends it or the line is cut.
    pub(super) async fn carry(line: Arc<Line>, framing: Framing, mut client: TcpStream, upstream: Arc<str>) {
        let ended = async {
            let mut server = TcpStream::connect(&*upstream).await?;
            server.set_nodelay(true)?;
            client.set_nodelay(true)?;
            let talk = Mutex::new(Talk { wire: framing.begin(), awaited: HashMap::new(), is_over: false });
            let pump = Pump { line: line.clone(), talk, stalled: watch::Sender::new(false) };
            let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
            tokio::try_join!(pump.up(from_client, to_server), pump.down(from_server, to_client))
        };
        let reset = tokio::select! {
            biased;
            _ = line.until(|state| state.cut) => true,
            ended = ended => ended.is_err(),
        };
        if reset {
            // Without it the client would see a proper end.
            let _ = client.set_zero_linger();
        }
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn while_it_flows(&self) {
        if *self.stalled.borrow() {
            pending::<()>().await;
        }
    }

    async fn up(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Reset> {
        let (mut buffer, mut held) = (Vec::new(), None);
        loop {
            loop {
                let unit = self.talk().wire.up(&buffer);
                let Some(unit) = unit else { break };
                let bytes: Vec<u8> = buffer.drain(..unit.length).collect();
                self.line.passes(Way::Up).await;
                self.while_it_flows().await;
                if unit.takes_back.is_some_and(|id| self.talk().is_held(id)) {
                    continue;
                }
                let rule = unit.request.and_then(|id| self.line.judge(&bytes).map(|rule| (id, rule)));
                match rule {
                    None => to.write_all(&bytes).await?,
                    Some((id, rule)) => {
                        self.request(id, &rule, &bytes, &mut to).await?;
                        held = held.or(Some(rule).filter(|rule| rule.action() == Action::Hold));
                    }
                }
            }
            if !matches!(from.read_buf(&mut buffer).await, Ok(1..)) {
                self.while_it_flows().await;
                if let Some(rule) = &held {
                    // A server may drop what it is about to do for a client of whose end it hears.
                    rule.answered().await;
                }
                // The server may not be there either.
                let _ = to.shutdown().await;
                return Ok(());
            }
        }
    }

    /// Does what is ordered for a request.
    async fn request(&self, id: u64, rule: &Rule, bytes: &[u8], to: &mut WriteHalf<'_>) -> Result<(), Reset> {
        let half = bytes.len() / 2;
        match rule.action() {
            Action::LoseRequest => {
                rule.strike();
                return Err(Reset);
            }
            Action::CutRequest => {
                to.write_all(&bytes[..half]).await?;
                rule.strike();
                return Err(Reset);
            }
            Action::Hold => {
                rule.strike();
                rule.released().await;
            }
            Action::Pass | Action::LoseReply | Action::CutReply | Action::Stall | Action::Twice => {}
        }
        self.talk().awaits(id, Awaited::By(rule.clone()));
        to.write_all(bytes).await?;
        if rule.action() == Action::Twice {
            let again = self.talk().wire.up(bytes).and_then(|unit| unit.request);
            self.talk().awaits(again.unwrap_or(id), Awaited::Copy);
            to.write_all(bytes).await?;
        }
        Ok(())
    }

    async fn down(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Reset> {
        let mut buffer = Vec::new();
        // A client that has gone does not keep the server from what it was asked.
        let mut is_there = true;
        loop {
            loop {
                let unit = self.talk().wire.down(&buffer);
                let Some((length, what)) = unit else { break };
                let bytes: Vec<u8> = buffer.drain(..length).collect();
                self.line.passes(Way::Down).await;
                let passes = match what {
                    Down::Other => true,
                    Down::Part(id) => !self.talk().is_lost(id),
                    Down::End(id) => {
                        let awaited = self.talk().take(id);
                        self.reply(awaited, &bytes, &mut to).await?
                    }
                };
                if passes && is_there {
                    is_there = to.write_all(&bytes).await.is_ok();
                }
            }
            match from.read_buf(&mut buffer).await {
                Ok(1..) => self.while_it_flows().await,
                ended => {
                    self.talk().end();
                    ended?;
                    let _ = to.shutdown().await;
                    return Ok(());
                }
            }
        }
    }

    /// Does what is ordered for a reply; whether it passes.
    async fn reply(&self, awaited: Option<Awaited>, bytes: &[u8], to: &mut WriteHalf<'_>) -> Result<bool, Reset> {
        let rule = match awaited {
            None => return Ok(true),
            Some(Awaited::Copy) => return Ok(false),
            Some(Awaited::By(rule)) => rule,
        };
        match rule.action() {
            Action::LoseReply => {
                rule.strike();
                Err(Reset)
            }
            Action::CutReply => {
                let _ = to.write_all(&bytes[..bytes.len() / 2]).await;
                rule.strike();
                Err(Reset)
            }
            Action::Stall => {
                self.stalled.send_replace(true);
                rule.strike();
                pending().await
            }
            Action::Twice => {
                rule.strike();
                Ok(true)
            }
            Action::Hold => {
                rule.answer();
                Ok(true)
            }
            Action::Pass | Action::LoseRequest | Action::CutRequest => Ok(true),
        }
    }
}

impl Talk {
    fn awaits(&mut self, id: u64, what: Awaited) {
        self.awaited.entry(id).or_default().push_back(what);
        if self.is_over {
            self.end();
        }
    }

    /// The server has ended the connection: it has done by then what it did of the requests that were held back.
    fn end(&mut self) {
        self.is_over = true;
        for awaited in self.awaited.values().flatten() {
            if let Awaited::By(rule) = awaited
                && rule.action() == Action::Hold
            {
                rule.answer();
            }
        }
    }

    /// Whether the reply to this request is not for its client.
    fn is_lost(&self, id: u64) -> bool {
        let first = self.awaited.get(&id).and_then(VecDeque::front);
        first.is_some_and(|awaited| match awaited {
            Awaited::Copy => true,
            Awaited::By(rule) => matches!(rule.action(), Action::LoseReply | Action::Stall),
        })
    }

    /// Whether this request was held back: then it is carried out, though its client may want it no more.
    fn is_held(&self, id: u64) -> bool {
        let awaited = self.awaited.get(&id).into_iter().flatten();
        awaited.into_iter().any(|awaited| matches!(awaited, Awaited::By(rule) if rule.action() == Action::Hold))
    }

    fn take(&mut self, id: u64) -> Option<Awaited> {
        self.awaited.get_mut(&id).and_then(VecDeque::pop_front)
    }
}
