//! What a measured process and the benchmark tell each other: one JSON object a line, on its standard input and output.
//!
//! A process begins with `{}` once its client is connected, then answers each [`Ask`] by one [`Answer`], and ends with
//! its standard input. Times are nanoseconds of the machine's monotonic clock (`time.monotonic_ns()` of Python,
//! `System.nanoTime()` of Java, `CLOCK_MONOTONIC` elsewhere).

use crate::contender::{Contender, Held, Result};
use crate::turn::{Turn, now};
use crate::workload::{Workload, take_turns};
use serde::{Deserialize, Serialize};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;

/// What a process is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Ask {
    /// Take turns from one moment until another, and answer them.
    Turns {
        /// By how many tasks on which keys.
        workload: Workload,
        /// The key, or what the tasks' own keys begin with.
        key: String,
        /// Nanoseconds.
        from: u64,
        /// Nanoseconds.
        until: u64,
    },
    /// Acquire so many locks and keep them; answer the memory that this took.
    Hold {
        /// What the keys begin with.
        key: String,
        /// How many.
        count: u32,
    },
    /// Rest for so long, and answer the processor time that this took.
    Rest {
        /// Milliseconds.
        millis: u64,
    },
}

/// What it answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answer {
    /// The turns taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<Turn>,
    /// Bytes of memory that the locks took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Nanoseconds of processor time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    /// Why it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Serves a contender on the standard input and output.
///
/// # Errors
/// When its client can't be made, or the other end is gone.
pub async fn serve(contender: &dyn Contender) -> Result<()> {
    let client = contender.client().await?;
    let mut held = Vec::new();
    let mut asks = BufReader::new(tokio::io::stdin()).lines();
    let mut answer = Answer::default();
    loop {
        let line = serde_json::to_string(&answer)? + "\n";
        let mut output = tokio::io::stdout();
        output.write_all(line.as_bytes()).await?;
        output.flush().await?;
        let Some(ask) = asks.next_line().await? else { break };
        let done = match serde_json::from_str(&ask)? {
            Ask::Turns { workload, key, from, until } => take_turns(&client, &workload, &key, from, until)
                .await
                .map(|turns| Answer { turns, ..Answer::default() }),
            Ask::Hold { key, count } => hold(&client, &key, count, &mut held).await,
            Ask::Rest { millis } => {
                let before = cpu();
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(Answer { cpu: Some(cpu() - before), ..Answer::default() })
            }
        };
        answer = done.unwrap_or_else(|error| Answer { error: Some(chain(&*error)), ..Answer::default() });
    }
    for lock in held {
        lock.release().await?;
    }
    client.close().await
}

async fn hold(
    client: &std::sync::Arc<dyn crate::Client>,
    key: &str,
    count: u32,
    held: &mut Vec<Box<dyn Held>>,
) -> Result<Answer> {
    /// Enough to keep a connection busy.
    const AT_ONCE: usize = 64;
    // The first ones make what is made once.
    held.push(client.acquire(&format!("{key}-first")).await?);
    let before = resident()?;
    held.reserve_exact(count as usize);
    let mut tasks: JoinSet<Result<Box<dyn Held>>> = JoinSet::new();
    for number in 0..count {
        let (client, key) = (client.clone(), format!("{key}-{number}"));
        tasks.spawn(async move { client.acquire(&key).await });
        if tasks.len() == AT_ONCE
            && let Some(lock) = tasks.join_next().await
        {
            held.push(lock??);
        }
    }
    while let Some(lock) = tasks.join_next().await {
        held.push(lock??);
    }
    Ok(Answer { bytes: Some(resident()?.saturating_sub(before)), ..Answer::default() })
}

/// Resident memory of this process in bytes.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Processor time of this process in nanoseconds.
fn cpu() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// An error with its sources.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// A measured process, killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts it, and waits until its client is connected.
    ///
    /// # Errors
    /// When it can't be started or ends.
    pub async fn start(command: &[String]) -> Result<Self> {
        /// A Java machine takes its time.
        const START: Duration = Duration::from_secs(30);
        let (program, arguments) = command.split_first().ok_or("no command")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
        let (Some(asks), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes".into());
        };
        let mut process = Self { child, asks, answers: BufReader::new(answers).lines() };
        tokio::time::timeout(START, process.answer()).await.map_err(|_| "its client did not connect")??;
        Ok(process)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// What it answers, or that it ended.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Answer> {
        let line = serde_json::to_string(ask)? + "\n";
        self.asks.write_all(line.as_bytes()).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Answer> {
        let Some(line) = self.answers.next_line().await? else {
            return Err(format!("its process ended: {}", self.child.wait().await?).into());
        };
        let answer: Answer = serde_json::from_str(&line).map_err(|error| format!("{error} in {line:.200}"))?;
        match answer.error {
            Some(error) => Err(error.into()),
            None => Ok(answer),
        }
    }

    /// SIGKILL; answers when.
    ///
    /// # Errors
    /// When it has ended before.
    pub async fn kill(mut self) -> Result<u64> {
        let at = now();
        self.child.kill().await?;
        Ok(at)
    }

    /// Lets it end by itself.
    ///
    /// # Errors
    /// When it does not within 10 s.
    pub async fn end(self) -> Result<()> {
        let Self { mut child, asks, answers: _answers } = self;
        drop(asks);
        tokio::time::timeout(Duration::from_secs(10), child.wait()).await.map_err(|_| "it did not end")??;
        Ok(())
    }
}
