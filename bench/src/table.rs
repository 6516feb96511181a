//! Reports as people read them.

use crate::entry::Role;
use crate::figures::{rate_text, time_text};
use crate::report::{Report, Row};
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write;

const PAIRS: [&str; 9] =
    ["", "ratio", "lowest–highest", "pairs/s", "p50", "p99", "max", "requests a pair", "least–most served"];
const HAND_OVERS: [&str; 9] =
    ["", "ratio", "lowest–highest", "hand-overs/s", "wait p50", "p99", "max", "requests a turn", "least–most served"];

/// The tables of a report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    for note in &report.notes {
        let _ = writeln!(text, "- {note}");
    }
    text += &summary(report);
    for store in report.stores() {
        let _ = writeln!(text, "\n## {store}");
        for workload in names(report, store) {
            let rows: Vec<_> = rows(report, store, workload);
            let _ = writeln!(text, "\n**{workload}**\n");
            let heads = if rows.first().is_some_and(|row| row.contended) { HAND_OVERS } else { PAIRS };
            let _ = writeln!(text, "| {} |\n|---|{}", heads.join(" | "), "---:|".repeat(heads.len() - 1));
            for row in &rows {
                let mut cells = cells(row);
                if row.role == Role::Dlock {
                    cells[0] = format!("**{}**", cells[0]);
                }
                let _ = writeln!(text, "| {} |", cells.join(" | "));
            }
        }
        let _ = write!(text, "{}", remarks(report, store));
    }
    text
}

/// dlock's ratio to the floor in the workloads that say most, and behind it that of the best peer.
fn summary(report: &Report) -> String {
    const TOLD: [&str; 4] = ["lone pair", "64 tasks × 64 keys", "16 tasks × 1 key", "256 tasks × 1 key"];
    let told: Vec<_> = TOLD.into_iter().filter(|name| report.rows.iter().any(|row| row.workload == *name)).collect();
    if told.is_empty() {
        return String::new();
    }
    let mut text =
        format!("\n| ratio to the floor (best peer) | {} |\n|---|{}\n", told.join(" | "), "---:|".repeat(told.len()));
    for store in report.stores() {
        let cells = told.iter().map(|workload| {
            let rows = rows(report, store, workload);
            let best = |role| {
                let ratios = rows.iter().filter(|row| row.role == role).filter_map(|row| Some(row.ratio?.0));
                ratios.max_by(f64::total_cmp).map(ratio_text)
            };
            match (best(Role::Dlock), best(Role::Peer)) {
                (Some(own), Some(peer)) => format!("**{own}** ({peer})"),
                (Some(own), None) => format!("**{own}**"),
                (None, _) => "-".to_owned(),
            }
        });
        let _ = writeln!(text, "| {store} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    text
}

/// The tables of a report for a terminal.
pub fn tables(report: &Report) -> String {
    let mut text = String::new();
    for store in report.stores() {
        for workload in names(report, store) {
            let rows: Vec<_> = rows(report, store, workload);
            let mut table = Table::new();
            table.load_preset(presets::NOTHING);
            let heads = if rows.first().is_some_and(|row| row.contended) { HAND_OVERS } else { PAIRS };
            table.set_header(heads);
            table.add_rows(rows.iter().map(|row| cells(row)));
            for (number, column) in table.column_iter_mut().enumerate() {
                column.set_padding((0, 2));
                if number > 0 {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            let _ = writeln!(text, "\n{store}: {workload}");
            for line in table.lines() {
                let _ = writeln!(text, "  {}", line.trim_end());
            }
        }
        text += &remarks(report, store);
    }
    text
}

/// What a reader must know, once for each contender, and what was not run.
fn remarks(report: &Report, store: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for row in report.rows.iter().filter(|row| row.store == store) {
        if !row.note.is_empty() {
            lines.push(format!("- {}: {}", row.contender, row.note));
        }
        if row.overlaps > 0 {
            lines.push(format!(
                "- {} let two hold the lock at once, {} times in \"{}\"",
                row.contender, row.overlaps, row.workload
            ));
        }
    }
    lines.extend(
        report
            .not_run
            .iter()
            .filter(|not| not.store == store)
            .map(|not| format!("- not run: {} ({})", not.what, not.why)),
    );
    let mut once: Vec<String> = Vec::new();
    for line in lines {
        if !once.contains(&line) {
            once.push(line);
        }
    }
    once.iter().fold(String::from("\n"), |text, line| text + line + "\n")
}

fn names<'a>(report: &'a Report, store: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for row in report.rows.iter().filter(|row| row.store == store) {
        if !names.contains(&&*row.workload) {
            names.push(&row.workload);
        }
    }
    names
}

/// The floor first, then by rate.
fn rows<'a>(report: &'a Report, store: &str, workload: &str) -> Vec<&'a Row> {
    let mut rows: Vec<_> = report.rows.iter().filter(|row| row.store == store && row.workload == workload).collect();
    let is_floor = |row: &Row| !matches!(row.role, Role::Dlock | Role::Peer);
    rows.sort_by(|a, b| is_floor(b).cmp(&is_floor(a)).then(b.rate.total_cmp(&a.rate)));
    rows
}

fn cells(row: &Row) -> [String; 9] {
    let (ratio, ends) = match row.ratio {
        None => ("-".to_owned(), "-".to_owned()),
        Some((ratio, low, high)) => (ratio_text(ratio), format!("{}–{}", ratio_text(low), ratio_text(high))),
    };
    let time = |part| time_text(row.time_at(part));
    let requests = row.requests.map_or_else(|| "-".to_owned(), |requests| format!("{requests:.2}"));
    let served = format!("{:.0}–{:.0}", row.served.0, row.served.1);
    let marked = if row.overlaps > 0 { format!("{} (NO EXCLUSION)", row.contender) } else { row.contender.clone() };
    [marked, ratio, ends, rate_text(row.rate), time(0.5), time(0.99), time(1.0), requests, served]
}

fn ratio_text(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

/// A row's times as bars over a logarithmic axis, from the fastest to the slowest.
pub fn histogram(row: &Row) -> String {
    const WIDTH: f64 = 40.0;
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let log = |nanos: u64| (nanos.max(1) as f64).ln();
    let (least, most) = (log(row.time_at(0.01)), log(row.time_at(1.0)));
    let mut text = String::new();
    for (part, nanos) in &row.times {
        let long = (log(*nanos) - least) / (most - least).max(f64::MIN_POSITIVE);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bar of at most 40 signs")]
        let bar = "█".repeat((long * WIDTH).round().clamp(1.0, WIDTH) as usize);
        let _ = writeln!(text, "  {:>6} %  {bar:<40}  {}", part * 100.0, time_text(*nanos));
    }
    text
}
