//! `dlock run`: what it does when all goes well, or is asked to stop.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, SOON, brief, ended, judge, stderr};
use dlock_fixtures::{RedisServer, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn a_command_runs_with_its_status_its_output_and_its_input() {
    let place = Place::local();
    let mut child = place
        .dlock(&["run", "k", "--", "sh", "-c", "cat; echo err >&2; echo $DLOCK_KEY $DLOCK_TOKEN $DLOCK_HOLDER; exit 7"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from stdin\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(stderr(&output), "err\n");
    let text = String::from_utf8(output.stdout).unwrap();
    let (first, second) = text.trim_end().split_once('\n').unwrap();
    let parts: Vec<_> = second.split(' ').collect();
    assert_eq!((first, parts[0]), ("from stdin", "k"));
    assert!(parts[1].parse::<u64>().unwrap() > 0 && parts[2].len() == 32);
}

#[test]
fn the_status_of_what_a_signal_ended_or_could_not_start_is_the_shells() {
    let place = Place::local();
    for (command, code) in [("kill -TERM $$", 143), ("kill -KILL $$", 137), ("exit 0", 0)] {
        assert_eq!(place.output(&["run", "k", "--", "sh", "-c", command]).status.code(), Some(code), "{command}");
    }
    let missing = place.output(&["run", "k", "--", "/no/such/program"]);
    assert_eq!(missing.status.code(), Some(127), "{}", stderr(&missing));
    assert_eq!(place.output(&["run", "k", "--", "/etc/passwd"]).status.code(), Some(126));
    assert_eq!(place.output(&["run", "--try", "k", "--", "true"]).status.code(), Some(0), "the key is free again");
}

#[test]
fn a_second_run_with_try_is_told_who_holds() {
    for place in Place::all() {
        let first = place.start(&["run", "k", "--", "sh", "-c", "echo starts >> $J; read line"], "starts");
        let mut first = first;
        // Its standard input is empty, so `read` ends at once; hold it by another.
        let _ = first.wait();
        let mut holder = place
            .dlock(&["run", "--label", "the nightly job", "k", "--", "sh", "-c", "echo holds >> $J; read line"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        place.until("holds", SOON);
        let refused = place.output(&["run", "--try", "k", "--", "sh", "-c", "echo never >> $J"]);
        assert_eq!(refused.status.code(), Some(75));
        assert!(stderr(&refused).contains("the nightly job"), "{}", stderr(&refused));
        let late = place.output(&["run", "--wait", "200ms", "k", "--", "true"]);
        assert_eq!(late.status.code(), Some(75));
        assert!(stderr(&late).contains("within 200ms"), "{}", stderr(&late));
        assert!(stderr(&late).contains("the nightly job"), "{}", stderr(&late));
        let skipped = place.output(&["run", "--try", "--skip-code", "0", "k", "--", "sh", "-c", "echo never >> $J"]);
        assert_eq!((skipped.status.code(), stderr(&skipped)), (Some(0), String::new()));
        holder.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(holder.wait().unwrap().success());
        assert!(!place.journal().contains("never"));
    }
}

#[test]
fn one_that_waits_says_for_whom_and_follows() {
    let place = Place::local();
    let mut first = place
        .dlock(&[
            "run",
            "--label",
            "the first",
            "k",
            "--",
            "sh",
            "-c",
            "echo first starts >> $J; read line; echo first ends >> $J",
        ])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    place.until("first starts", SOON);
    let second = place.dlock(&["run", "k", "--", "sh", "-c", &brief("second")]).stderr(Stdio::piped()).spawn().unwrap();
    let third = place.dlock(&["run", "--shared", "other", "--", "sh", "-c", &brief("third")]).spawn().unwrap();
    place.until("third ends", SOON);
    assert!(!place.journal().contains("second"));
    // It speaks after a second of silence.
    let begun = Instant::now();
    wait_until("a second has passed", SOON, || begun.elapsed() > Duration::from_millis(1_500));
    first.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(first.wait().unwrap().success());
    let (code, said) = ended(second, SOON);
    assert_eq!(code, Some(0));
    assert!(said.contains("the first") && said.contains("1 waits"), "{said}");
    judge(&place.journal(), "first", "second");
    assert_eq!(ended(third, SOON).0, Some(0));
}

#[test]
fn shared_runs_run_together_and_permits_up_to_their_number() {
    for place in Place::all() {
        shared_and_permits(&place);
    }
}

fn shared_and_permits(place: &Place) {
    for mode in [["--shared"].as_slice(), &["--permits", "2"]] {
        let arguments = |rest: &[&'static str]| [&["run"], mode, rest].concat();
        let waits = arguments(&["k", "--", "sh", "-c", "echo in >> $J; read line"]);
        let start = || {
            let waits: Vec<&str> = waits.clone();
            place.dlock(&waits).stdin(Stdio::piped()).spawn().unwrap()
        };
        let before = place.journal().matches("in\n").count();
        let running = [start(), start()];
        wait_until("both are in", SOON, || place.journal().matches("in\n").count() == before + 2);
        assert_eq!(
            place.output(&["run", "--try", "k", "--", "true"]).status.code(),
            Some(if mode.len() == 1 { 75 } else { 64 })
        );
        for mut run in running {
            drop(run.stdin.take());
            assert!(run.wait().is_ok());
        }
    }
}

#[test]
fn signals_are_passed_on_to_the_command() {
    let place = Place::local();
    for (signal, name, code) in [(Signal::TERM, "TERM", 41), (Signal::INT, "INT", 42), (Signal::HUP, "HUP", 43)] {
        let script = format!(
            "trap 'echo got {name} >> $J; exit {code}' {name}; echo ready {name} >> $J; while :; do sleep 0.02; done"
        );
        let child = place.start(&["run", "k", "--", "bash", "-c", &script], &format!("ready {name}"));
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(ended(child, SOON).0, Some(code));
        assert!(place.journal().contains(&format!("got {name}")));
    }
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    let place = Place::local();
    let program = env!("CARGO_BIN_EXE_dlock");
    let command = "kill -HUP $$; echo first starts >> $J; sleep 0.5; echo first ends >> $J";
    // As nohup does it.
    let child = place
        .command("sh")
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", program, "run", "k", "--", "sh", "-c", command])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    place.until("first starts", SOON);
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let (code, said) = ended(child, SOON);
    assert_eq!(code, Some(0), "{said}");
    assert!(place.journal().contains("first ends"));
}

/// A command that becomes another user (by a program with the set-user-id bit, as sudo is one) takes no signal from us.
#[test]
fn the_key_is_kept_for_as_long_as_a_command_of_another_user_runs() {
    if !rustix::process::geteuid().is_root() {
        assert!(!dlock_fixtures::required(), "run this as root: it makes a program with the set-user-id bit");
        return;
    }
    let place = Place::redis();
    let open = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(place.folder.path(), open(0o755)).unwrap();
    let (su, program) = (place.path("become-root"), place.path("dlock"));
    std::fs::copy("/usr/bin/setpriv", &su).unwrap();
    std::fs::set_permissions(&su, open(0o4755)).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_dlock"), &program).unwrap();
    let command = "echo first starts >> $J; sleep 1.5; echo first ends >> $J; exit 7";
    let child = place
        .command("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "--"])
        .arg(&program)
        .args(["run", "--ttl", "900ms", "k", "--"])
        .arg(&su)
        .args(["--reuid", "0", "--", "sh", "-c", command])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    place.until("first starts", SOON);
    // It can't be told to end either.
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(place.output(&["run", "k", "--", "sh", "-c", &brief("second")]).status.code(), Some(0));
    let (code, said) = ended(child, SOON);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("another user"), "{said}");
    assert!(place.journal().contains("first ends"));
    judge(&place.journal(), "first", "second");
}

#[test]
fn a_signal_while_it_waits_ends_it_and_leaves_no_waiter() {
    let place = Place::redis();
    let mut holder = place
        .dlock(&["run", "k", "--", "sh", "-c", "echo holds >> $J; read line"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    place.until("holds", SOON);
    let waiter = place.dlock(&["run", "k", "--", "true"]).stderr(Stdio::piped()).spawn().unwrap();
    place.until_waiting("k");
    kill_process(Pid::from_child(&waiter), Signal::INT).unwrap();
    assert_eq!(ended(waiter, SOON).0, Some(130));
    let shown = place.output(&["show", "k", "--json"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("\"waiters\": []"));
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

#[test]
fn at_least_keeps_the_key_when_the_command_has_ended() {
    let place = Place::local();
    let begun = Instant::now();
    let child = place.start(&["run", "--at-least", "1500ms", "k", "--", "sh", "-c", "echo done >> $J"], "done");
    assert_eq!(place.output(&["run", "--try", "k", "--", "true"]).status.code(), Some(75));
    assert_eq!(ended(child, SOON).0, Some(0));
    assert!(begun.elapsed() >= Duration::from_millis(1_500));
    assert_eq!(place.output(&["run", "--try", "k", "--", "true"]).status.code(), Some(0));
}

#[test]
fn at_least_is_for_commands_that_ran_and_were_not_told_to_end() {
    let place = Place::local();
    let begun = Instant::now();
    assert_eq!(place.output(&["run", "--at-least", "1m", "k", "--", "/no/such/program"]).status.code(), Some(127));
    let child = place.start(&["run", "--at-least", "1m", "k", "--", "sh", "-c", "echo first >> $J; sleep 60"], "first");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(ended(child, SOON).0, Some(143));
    // One that says 127 for itself has run; and a signal that ends a program ends the rest of the time.
    let child = place.start(
        &["run", "--at-least", "1m", "k", "--", "sh", "-c", "trap '' USR1 TERM; echo second >> $J; exit 127"],
        "second",
    );
    assert_eq!(place.output(&["run", "--try", "k", "--", "true"]).status.code(), Some(75));
    kill_process(Pid::from_child(&child), Signal::USR1).unwrap();
    assert_eq!(place.output(&["run", "--try", "k", "--", "true"]).status.code(), Some(75));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(ended(child, SOON).0, Some(127));
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn what_the_command_leaves_running_is_ended_before_the_key_is_free() {
    let place = Place::local();
    let leaves =
        "echo first starts >> $J; sh -c 'while :; do echo first works >> $J; sleep 0.02; done' & sleep 0.1; exit 0";
    assert_eq!(place.output(&["run", "k", "--", "sh", "-c", leaves]).status.code(), Some(0));
    assert_eq!(place.output(&["run", "k", "--", "sh", "-c", &brief("second")]).status.code(), Some(0));
    judge(&place.journal(), "first", "second");
}

#[test]
fn max_hold_ends_the_command() {
    let place = Place::local();
    let child = place.start(
        &["run", "--ttl", "3s", "--max-hold", "1500ms", "k", "--", "sh", "-c", &common::busy("first")],
        "first works",
    );
    let (code, said) = ended(child, SOON);
    assert_eq!(code, Some(76), "{said}");
    assert!(said.contains("max_hold"), "{said}");
}

#[test]
fn a_max_hold_that_is_shorter_than_the_usual_grace_leaves_the_command_its_time() {
    let place = Place::local();
    let output = place.output(&["run", "--max-hold", "3s", "k", "--", "sh", "-c", "sleep 1; echo ended >> $J"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(place.journal(), "ended\n");
    for wrong in
        [&["--max-hold", "0s"][..], &["--max-hold", "3s", "--at-least", "4s"], &["--max-hold", "3s", "--grace", "2s"]]
    {
        let output = place.output(&[&["run"], wrong, &["k", "--", "true"]].concat());
        assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    }
}

#[test]
fn a_long_grace_does_not_end_a_command_whose_lock_was_handed_over() {
    let place = Place::redis();
    let first = place.start(&["run", "k", "--", "sh", "-c", "echo first >> $J; sleep 60"], "first");
    let mut second = place.dlock(&["run", "--grace", "10s", "k", "--", "sh", "-c", "echo second >> $J; sleep 7"]);
    let second = second.stderr(Stdio::piped()).spawn().unwrap();
    place.until_waiting("k");
    kill_process(Pid::from_child(&first), Signal::TERM).unwrap();
    let (code, said) = ended(second, Duration::from_secs(30));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(ended(first, SOON).0, Some(143));
}

/// The only child of a process, whichever of its threads started it.
fn only_child(parent: Pid) -> Pid {
    let threads = std::fs::read_dir(format!("/proc/{}/task", parent.as_raw_pid())).unwrap();
    let children = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap());
    let children = children.collect::<String>();
    Pid::from_raw(children.trim().parse().unwrap()).unwrap()
}

#[test]
fn a_command_that_is_stopped_is_ended_all_the_same() {
    let place = Place::local();
    let child = place.start(&["run", "k", "--", "sh", "-c", "echo first >> $J; kill -STOP $$"], "first");
    let command = only_child(only_child(Pid::from_child(&child)));
    wait_until("the command is stopped", SOON, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", command.as_raw_pid())).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(ended(child, SOON).0, Some(143));
}

#[test]
fn a_waiter_whose_program_was_replaced_runs_its_command() {
    let place = Place::local();
    let program = place.path("dlock");
    std::fs::copy(env!("CARGO_BIN_EXE_dlock"), &program).unwrap();
    let first = place.start(&["run", "k", "--", "sh", "-c", "echo first >> $J; sleep 60"], "first");
    let mut second = place.command(program.to_str().unwrap());
    let second =
        second.args(["run", "k", "--", "sh", "-c", "echo second >> $J"]).stderr(Stdio::piped()).spawn().unwrap();
    place.until_waiting("k");
    std::fs::remove_file(&program).unwrap();
    kill_process(Pid::from_child(&first), Signal::TERM).unwrap();
    let (code, said) = ended(second, SOON);
    assert_eq!(code, Some(0), "{said}");
    ended(first, SOON);
}

#[test]
fn durations_without_a_unit_are_seconds_and_the_url_may_stand_in_a_file() {
    let place = Place::local();
    let file = place.path("url");
    std::fs::write(&file, format!("{}\n", place.url)).unwrap();
    let environment = "echo ${DLOCK_URL-none} ${DLOCK_FENCE_FLOOR:+floor} >> $J";
    let mut run = place.dlock(&["--url-file", file.to_str().unwrap(), "run", "-w", "5", "--ttl", "20", "k", "--"]);
    assert!(run.args(["sh", "-c", environment]).env_remove("DLOCK_URL").status().unwrap().success());
    assert_eq!(place.journal(), "none floor\n");
    let missing = place.output(&["--url-file", "/nowhere/url", "ls"]);
    assert_eq!(missing.status.code(), Some(78), "{}", stderr(&missing));
}

#[test]
fn a_warden_that_is_stopped_does_not_save_the_command() {
    let mut place = Place::redis();
    let child = place.start(&["run", "--ttl", "3s", "k", "--", "sh", "-c", &common::busy("first")], "first works");
    kill_process(only_child(Pid::from_child(&child)), Signal::STOP).unwrap();
    place.kill_server();
    let (code, said) = ended(child, SOON);
    assert_eq!(code, Some(76), "{said}");
}

#[test]
fn a_limited_wait_covers_a_store_that_comes_up_late() {
    let (place, mut server) = (Place::local(), RedisServer::start());
    let url = server.url();
    server.kill();
    let refused = place.output(&["--url", &url, "run", "--wait", "1500ms", "k", "--", "true"]);
    assert_eq!(refused.status.code(), Some(69), "{}", stderr(&refused));
    let mut run = place.dlock(&["--url", &url, "run", "--wait", "60s", "k", "--", "true"]);
    let mut child = run.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("trying again"), "{said}");
    server.restart();
    assert_eq!(ended(child, SOON).0, Some(0));
}
