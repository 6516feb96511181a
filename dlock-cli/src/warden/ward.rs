//! The side of `dlock`: what the warden is told, and what it tells.

use super::is_gone;
use super::message::{Order, Report};
use crate::exit::{Failure, SOFTWARE, say};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

/// A command under a warden.
#[derive(Debug)]
pub(crate) struct Ward {
    warden: Child,
    orders: OwnedWriteHalf,
    reports: OwnedReadHalf,
    group: Option<Pid>,
    /// What the warden said before it ended: kept while its own end is waited for.
    last: Option<Report>,
    /// Whether it was said that the command can't be ended.
    is_out_of_reach: bool,
}

/// News of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It runs, in this process group.
    Started(Pid),
    /// It ended with this exit status, and nobody of its group is left.
    Ended(u8),
    /// It was ended because the lock was about to be lost, and nobody of its group is left.
    Cut,
}

impl Ward {
    /// Starts the command under a warden of its own. It must be gone by `deadline` (in nanoseconds since boot) unless
    /// that is moved.
    pub(crate) fn start(
        command: &[OsString],
        environment: &[(&str, String)],
        deadline: u64,
        grace: Duration,
        sign_of_life: Option<OwnedFd>,
    ) -> Result<Self, Failure> {
        let (here, there) = StdStream::pair()?;
        hand_over(&here, deadline, sign_of_life.as_ref())?;
        here.set_nonblocking(true)?;
        // What runs now, also if another version has taken its place in the file system.
        let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
        let warden = Command::new(program)
            .arg0("dlock")
            .arg("__warden")
            .arg(grace.as_millis().to_string())
            .arg("--")
            .args(command)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(there)))
            // Signals of the terminal are for the command.
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::new(SOFTWARE, format!("the process that watches over the command: {error}")))?;
        let (reports, orders) = UnixStream::from_std(here)?.into_split();
        Ok(Self { warden, orders, reports, group: None, last: None, is_out_of_reach: false })
    }

    /// Moves the deadline.
    pub(crate) async fn set_deadline(&mut self, at: u64) {
        self.order(Order::Deadline(at)).await;
    }

    /// Passes a signal on to the command's group.
    pub(crate) async fn pass_on(&mut self, signal: i32) {
        if let Ok(number) = u64::try_from(signal) {
            self.order(Order::Signal(number)).await;
        }
    }

    /// Has the command ended: SIGTERM now, SIGKILL after the grace.
    pub(crate) async fn end(&mut self) {
        self.order(Order::End).await;
    }

    /// Ends the command at once, without its warden, which may be stopped: then it is let go on.
    pub(crate) fn kill(&self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        if let Some(warden) = self.warden.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = kill_process(warden, Signal::CONT);
        }
    }

    async fn order(&mut self, order: Order) {
        // If the warden is gone, `news` says so. If it is stopped there is no room at last.
        let _ = tokio::time::timeout(Duration::from_millis(100), self.orders.write_all(&order.encode())).await;
    }

    /// The next news. If the warden itself was killed, the command's group is ended at once.
    ///
    /// # Cancel safety
    /// Cancel-safe: a message of nine bytes comes whole, and the last one is kept until the warden has ended.
    pub(crate) async fn news(&mut self) -> io::Result<News> {
        if self.last.is_none() {
            self.last = match Report::read(&mut self.reports).await {
                Some(Report::Started(group)) => {
                    self.group = i32::try_from(group).ok().and_then(Pid::from_raw);
                    let started = self.group.map(News::Started);
                    return started.ok_or_else(|| io::Error::other("the warden named no process group"));
                }
                report => report,
            };
        }
        self.warden.wait().await?;
        match self.last {
            Some(Report::Ended(status)) => Ok(News::Ended(u8::try_from(status).unwrap_or(u8::MAX))),
            Some(Report::Cut) => Ok(News::Cut),
            Some(Report::Started(_)) | None => {
                if let Some(group) = self.group {
                    while !is_gone(group) {
                        if kill_process_group(group, Signal::KILL) == Err(Errno::PERM) && !self.is_out_of_reach {
                            self.is_out_of_reach = true;
                            say(
                                "the process that watched over the command was killed; the command runs on as another user",
                            );
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                let fate = if self.group.is_some() {
                    "the command has ended too"
                } else {
                    "whether the command runs is not known"
                };
                Err(io::Error::other(format!("the process that watched over the command was killed; {fate}")))
            }
        }
    }
}

/// Sends the first deadline, and with it the command's standard input and the sign of life.
fn hand_over(socket: &StdStream, deadline: u64, sign_of_life: Option<&OwnedFd>) -> io::Result<()> {
    let stdin = io::stdin();
    let mut descriptors = vec![stdin.as_fd()];
    descriptors.extend(sign_of_life.map(AsFd::as_fd));
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for two descriptors"));
    }
    let message = Order::Deadline(deadline).encode();
    sendmsg(socket, &[IoSlice::new(&message)], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn the_last_news_is_not_lost_when_its_wait_is_dropped() {
        let (here, there) = StdStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        there.set_nonblocking(true).unwrap();
        let mut warden = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let alive = warden.stdin.take();
        let (reports, orders) = UnixStream::from_std(here).unwrap().into_split();
        let mut ward = Ward { warden, orders, reports, group: None, last: None, is_out_of_reach: false };
        let mut there = UnixStream::from_std(there).unwrap();
        Report::Cut.write(&mut there).await;
        drop(there);
        ward.reports.readable().await.unwrap();
        assert!(ward.news().now_or_never().is_none(), "the warden has not ended yet");
        drop(alive);
        assert_eq!(ward.news().await.unwrap(), News::Cut);
    }
}
