//! `ls`, `show`, `break`, `check` and `completions`.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, SOON, stderr};
use std::process::{Command, Stdio};

fn stdout(place: &Place, arguments: &[&str]) -> String {
    let output = place.output(arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn held_locks_are_listed_shown_and_broken() {
    for place in Place::all() {
        assert_eq!(stdout(&place, &["ls"]), "no locks are held or waited for\n");
        assert!(stdout(&place, &["show", "jobs/1"]).starts_with("free"));
        let hold = |key: &str, label: &str| {
            let script = format!("echo {key} >> $J; read line");
            let child = place
                .dlock(&["run", "--label", label, key, "--", "sh", "-c", &script])
                .stdin(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            place.until(key, SOON);
            child
        };
        let mut held = [hold("jobs/1", "the first"), hold("jobs/2", "the second"), hold("other", "the third")];
        let table = stdout(&place, &["ls"]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(lines[0].starts_with("KEY") && lines[1].starts_with("jobs/1"), "{table}");
        let column = lines[0].find("HOLDER").unwrap();
        assert!(lines[1][column..].starts_with("the first") && lines[3][column..].starts_with("the third"), "{table}");
        assert_eq!(stdout(&place, &["ls", "jobs/"]).lines().count(), 3);
        let json = stdout(&place, &["ls", "--json", "jobs/"]);
        let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!((first["key"].as_str(), first["holders"][0]["label"].as_str()), (Some("jobs/1"), Some("the first")));
        let token = first["holders"][0]["token"].as_u64().unwrap();
        assert!(stdout(&place, &["show", "jobs/1"]).contains("the first"));
        // Only the holder that is meant.
        let wrong = place.output(&["break", "jobs/1", "--token", &(token + 1).to_string()]);
        assert_eq!(wrong.status.code(), Some(75), "{}", stderr(&wrong));
        let wrong = place.output(&["break", "jobs/1", "--holder", "0123"]);
        assert_eq!(wrong.status.code(), Some(75), "{}", stderr(&wrong));
        assert!(stdout(&place, &["break", "jobs/1", "--token", &token.to_string()]).contains("took \"jobs/1\""));
        assert!(stdout(&place, &["show", "jobs/1"]).starts_with("free"));
        for child in &mut held {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let place = Place::local();
    let mut child =
        place.dlock(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn completions_are_for_every_shell() {
    let place = Place::local();
    for shell in ["bash", "zsh", "fish"] {
        let text = stdout(&place, &["completions", shell]);
        assert!(text.contains("break") && text.contains("at-least"), "{shell}");
    }
}

#[test]
fn a_live_store_is_checked() {
    let place = Place::redis();
    let text = stdout(&place, &["check", "e1_"]);
    assert_eq!(text, "ok      e1_a_second_try_is_told_who_holds\nconformance: redis 1 passed, 0 ignored, 0 failed\n");
    let report: serde_json::Value = serde_json::from_str(&stdout(&place, &["check", "--json", "f8_"])).unwrap();
    assert_eq!(report["cases"][0]["outcome"].as_str(), Some("passed"));
    assert_eq!(place.output(&["check", "no-such-case"]).status.code(), Some(64));
}

#[test]
fn bench_measures_and_leaves_no_lock() {
    let place = Place::local();
    let shown = stdout(&place, &["bench", "--quick"]);
    for workload in ["lone pair", "64 tasks × 64 keys", "64 tasks × 1 key"] {
        assert!(shown.contains(workload), "{shown}");
    }
    assert_eq!(stdout(&place, &["ls"]), "no locks are held or waited for\n");
    let json: serde_json::Value = serde_json::from_str(&stdout(&place, &["bench", "--quick", "--json"])).unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), 5);
    assert!(json["rows"].as_array().unwrap().iter().all(|row| row["overlaps"] == 0), "{json}");
    // Two at once would measure each other.
    let script = "echo holds >> $J; read line";
    let mut held = place.dlock(&["run", "dlock-bench", "--", "sh", "-c", script]);
    let mut held = held.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    place.until("holds", SOON);
    let refused = place.output(&["bench", "--quick"]);
    assert_eq!(refused.status.code(), Some(75), "{}", stderr(&refused));
    drop(held.stdin.take());
    held.wait().unwrap();
}

#[test]
fn what_others_wrote_hides_no_lock_and_gives_the_terminal_no_orders() {
    let place = Place::redis();
    let label = "\u{1b}[2K\rforged";
    let hold = ["run", "--label", label, "good", "--", "sh", "-c", "echo holds >> $J; sleep 60"];
    let mut holder = place.start(&hold, "holds");
    // A fence that is none.
    let made = Command::new("redis-cli").args(["-u", &place.url, "set", "{bad}:f", "x"]).output().unwrap();
    assert!(made.status.success());
    let listed = place.output(&["ls"]);
    assert_eq!(listed.status.code(), Some(78));
    assert!(stderr(&listed).contains("\"bad\""), "{}", stderr(&listed));
    let refused = place.output(&["run", "--try", "good", "--", "true"]);
    for text in [listed.stdout, place.output(&["show", "good"]).stdout, refused.stderr] {
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("forged") && !text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_script_asks_whether_a_lock_is_held() {
    let place = Place::local();
    let asks = || {
        let output = place.output(&["show", "--quiet", "k"]);
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
        output.status.code()
    };
    assert_eq!(asks(), Some(1));
    let mut child = place
        .dlock(&["run", "k", "--", "sh", "-c", "echo held >> $J; read line"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    place.until("held", SOON);
    assert_eq!(asks(), Some(0));
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(asks(), Some(1));
}
