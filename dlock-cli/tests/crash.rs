//! `dlock run` when something breaks: nothing of a command lives on beside the next holder's.
#![allow(clippy::unwrap_used)]

mod common;

use common::{AfterAKill, Place, SOON, brief, busy, ended, judge, on_every};
use rustix::process::{Pid, Signal, kill_process};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Kills a `dlock run`, and answers how long its waiter waited from then on.
fn killed(place: &Place, ttl: &str) -> Duration {
    let mut first = place.start(&["run", "--ttl", ttl, "k", "--", "sh", "-c", &busy("first")], "first works");
    let second = place.dlock(&["run", "k", "--", "sh", "-c", &brief("second")]).stderr(Stdio::piped()).spawn().unwrap();
    place.until_waiting("k");
    let begun = Instant::now();
    first.kill().unwrap();
    place.until("second starts", SOON + SOON);
    let took = begun.elapsed();
    assert_eq!(ended(second, SOON).0, Some(0));
    first.wait().unwrap();
    judge(&place.journal(), "first", "second");
    took
}

/// The next holder runs as soon as the store may give the lock on.
fn killed_run(place: Place) {
    let (ttl, limit) = match place.after_a_kill {
        AfterAKill::AtOnce => ("30s", Duration::from_secs(1)),
        AfterAKill::Ttl(more) => ("2s", Duration::from_secs(2) + more),
    };
    let took = killed(&place, ttl);
    println!("{}: the next holder ran {took:?} after the kill, with a TTL of {ttl}", place.name);
    assert!(took < limit, "after {took:?}");
}

on_every!(store, a_killed_run_frees_its_lock, killed_run);

/// Stops a `dlock run` for twice its TTL.
fn stopped(place: Place) {
    let first = place.start(&["run", "--ttl", "3s", "k", "--", "sh", "-c", &busy("first")], "first works");
    let second = place.dlock(&["run", "k", "--", "sh", "-c", &brief("second")]).stderr(Stdio::piped()).spawn().unwrap();
    place.until_waiting("k");
    let (pid, begun) = (Pid::from_child(&first), Instant::now());
    kill_process(pid, Signal::STOP).unwrap();
    place.until("second ends", SOON);
    dlock_fixtures::wait_until("six seconds", SOON, || begun.elapsed() >= Duration::from_secs(6));
    let third = place.start(&["run", "k", "--", "sh", "-c", &busy("third")], "third works");
    kill_process(pid, Signal::CONT).unwrap();
    let (code, said) = ended(first, SOON);
    assert_eq!(code, Some(76), "{said}");
    assert_eq!(ended(second, SOON).0, Some(0));
    judge(&place.journal(), "first", "second");
    // The one that holds now was not disturbed.
    let works = place.journal().matches("third works").count();
    dlock_fixtures::wait_until("the third works on", SOON, || {
        place.journal().matches("third works").count() > works + 3
    });
    kill_process(Pid::from_child(&third), Signal::TERM).unwrap();
    assert_eq!(ended(third, SOON).0, Some(143));
}

on_every!(store, a_stopped_run_has_lost_its_lock_and_harms_nobody, stopped);

on_every!(server, a_killed_server_ends_the_command_before_the_deadline, killed_server);

fn killed_server(mut place: Place) {
    let script =
        "trap 'echo got TERM >> $J; exit 0' TERM; echo starts >> $J; while :; do echo works >> $J; sleep 0.02; done";
    let begun = Instant::now();
    let first = place.start(&["run", "--ttl", "3s", "k", "--", "bash", "-c", script], "works");
    place.kill_server();
    let killed = Instant::now();
    let (code, said) = ended(first, SOON);
    assert_eq!(code, Some(76), "{said}");
    assert!(place.journal().contains("got TERM"));
    // The deadline is at most a TTL after the last answer; then the store is told for half a second.
    let took = killed.elapsed();
    assert!(took < Duration::from_millis(3_500), "{took:?} after the kill");
    assert!(begun.elapsed() > Duration::from_secs(1));
    let works = place.journal().matches("works").count();
    let later = Instant::now();
    dlock_fixtures::wait_until("a while", SOON, || later.elapsed() > Duration::from_millis(300));
    assert_eq!(place.journal().matches("works").count(), works);
}

on_every!(server, a_command_that_ignores_sigterm_is_killed_at_the_deadline, ignores_sigterm);

fn ignores_sigterm(mut place: Place) {
    let script = "trap '' TERM; echo starts >> $J; while :; do echo works >> $J; sleep 0.02; done";
    let first = place.start(&["run", "--ttl", "2s", "k", "--", "bash", "-c", script], "works");
    place.kill_server();
    let killed = Instant::now();
    assert_eq!(ended(first, SOON).0, Some(76));
    let took = killed.elapsed();
    assert!(took < Duration::from_millis(3_000), "{took:?} after the kill, with a TTL of 2s");
    let works = place.journal().matches("works").count();
    assert!(works > 0 && place.journal().matches("works").count() == works);
}

#[test]
fn a_broken_lock_ends_its_command_at_once() {
    for place in Place::all() {
        let first = place.start(&["run", "--ttl", "3s", "k", "--", "sh", "-c", &busy("first")], "first works");
        assert_eq!(place.output(&["break", "k"]).status.code(), Some(0));
        let (code, said) = ended(first, SOON);
        assert_eq!(code, Some(76), "{said}");
        assert!(said.contains("broken or taken"), "{said}");
    }
}

#[test]
fn a_killed_warden_ends_the_command_too() {
    let place = Place::local();
    let first = place.start(&["run", "k", "--", "sh", "-c", &busy("first")], "first works");
    let children = format!("/proc/{0}/task/{0}/children", first.id());
    // The warden may be the child of any of its threads.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", first.id())).unwrap();
    let warden = tasks.flatten().find_map(|task| {
        let children = std::fs::read_to_string(task.path().join("children")).ok()?;
        children.split_whitespace().next()?.parse::<i32>().ok()
    });
    let warden = warden.unwrap_or_else(|| panic!("no child in {children}"));
    kill_process(Pid::from_raw(warden).unwrap(), Signal::KILL).unwrap();
    let (code, said) = ended(first, SOON);
    assert_eq!(code, Some(70), "{said}");
    assert_eq!(place.output(&["run", "k", "--", "sh", "-c", &brief("second")]).status.code(), Some(0));
    judge(&place.journal(), "first", "second");
}

/// Adds one to a file's number, without any other care.
fn count(place: &Place, processes: usize, rounds: usize) {
    std::fs::write(place.path("sum"), "0").unwrap();
    let script = "n=$(cat $S); echo $((n + 1)) > $S";
    std::thread::scope(|scope| {
        for _ in 0..processes {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let run = place.dlock(&["run", "k", "--", "sh", "-c", script]).env("S", place.path("sum")).status();
                    assert!(run.unwrap().success());
                }
            });
        }
    });
    let sum = std::fs::read_to_string(place.path("sum")).unwrap();
    assert_eq!(sum.trim().parse::<usize>().unwrap(), processes * rounds);
}

on_every!(store, eight_processes_add_up, |place: Place| count(&place, 8, 25));
