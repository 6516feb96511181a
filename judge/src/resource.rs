//! The fenced resource: a process of its own that keeps a number per key.
//!
//! A worker reads the number, thinks, and writes it plus one. Both requests carry its token, and the fence is
//! [`dlocks::fence::Gate`]: a read raises it too, so that what an older holder still has in hand is refused from then on.
//! Each request is one line of JSON, and so is each answer.

use crate::history::{HoldId, Line, Mode, Recorder, Served};
use dlocks::FencingToken;
use dlocks::fence::Gate;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What a worker asks of the resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// Who.
    pub id: HoldId,
    /// Of which key.
    pub key: String,
    /// In which mode it holds.
    pub mode: Mode,
    /// Its token.
    pub token: u64,
    /// Its `fence_floor`.
    pub floor: Option<u64>,
    /// To write: the value read before. `None`: to read.
    pub base: Option<u64>,
}

/// What the resource answers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Whether the fence let the request through.
    pub accepted: bool,
    /// The value now.
    pub value: u64,
}

#[derive(Debug)]
struct Resource {
    fenced: bool,
    recorder: Recorder,
    kept: Mutex<HashMap<String, (Gate, u64)>>,
}

/// Serves until the process ends. Prints its port first.
///
/// # Errors
/// When it can't listen or write its history.
pub fn serve(folder: &Path, fenced: bool) -> std::io::Result<()> {
    let recorder = Recorder::open(&folder.join("resource.jsonl"))?;
    let resource = Arc::new(Resource { fenced, recorder, kept: Mutex::default() });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?.port())?;
    // Ends with the process that started it.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    for stream in listener.incoming() {
        let (stream, resource) = (stream?, resource.clone());
        stream.set_nodelay(true)?;
        std::thread::spawn(move || resource.answer(&stream));
    }
    Ok(())
}

impl Resource {
    /// Answers one connection until it ends.
    fn answer(&self, stream: &TcpStream) {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // A worker killed in the middle of a line.
            let Ok(ask) = serde_json::from_str(&line) else { return };
            let mut answer = serde_json::to_vec(&self.carry_out(ask)).expect("an answer is JSON");
            answer.push(b'\n');
            let mut stream = stream;
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }

    fn carry_out(&self, ask: Ask) -> Answer {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (gate, value) = kept.entry(ask.key.clone()).or_default();
        let admitted = match (ask.mode, ask.floor) {
            (Mode::Exclusive, _) => gate.admit(FencingToken(ask.token)).is_ok(),
            (_, Some(floor)) => gate.admit_shared(FencingToken(floor)).is_ok(),
            // A store that can't know it: there is nothing to compare.
            (_, None) => true,
        };
        let (accepted, before) = (admitted || !self.fenced, *value);
        if let (Some(base), true) = (ask.base, accepted) {
            *value = base + 1;
        }
        let Ask { id, key, mode, token, floor, base } = ask;
        self.recorder.record(&Line::now(Served { id, key, mode, token, floor, base, value: before, accepted }));
        Answer { accepted, value: *value }
    }
}
