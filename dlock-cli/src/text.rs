//! Locks as people read them.

use comfy_table::Table;
use dlocks::{HolderInfo, LockInfo};
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

/// A duration in the two largest units that matter.
pub(crate) fn duration(duration: Duration) -> String {
    let rounded = match duration.as_millis() {
        0..1_000 => Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or_default()),
        1_000..60_000 => Duration::from_millis(u64::try_from(duration.as_millis() / 100 * 100).unwrap_or_default()),
        60_000..86_400_000 => Duration::from_secs(duration.as_secs()),
        _ => Duration::from_secs(duration.as_secs() / 60 * 60),
    };
    humantime::format_duration(rounded).to_string()
}

/// How long ago that was.
pub(crate) fn ago(since: Option<SystemTime>) -> String {
    let ago = since.map(|since| SystemTime::now().duration_since(since).unwrap_or_default());
    ago.map_or_else(|| "-".to_owned(), |ago| format!("{} ago", duration(ago)))
}

/// Text that others have written, for a terminal: what would move its cursor or turn its direction is shown as a sign.
pub(crate) fn plain(text: &str) -> String {
    let is_order = |c: char| {
        c.is_control()
            || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_order(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A holder in half a sentence.
pub(crate) fn holder(holder: &HolderInfo) -> String {
    let who = match holder.label.as_deref() {
        Some(label) if !label.is_empty() => format!("{label:?}"),
        _ => format!("{} (not a dlock client)", plain(holder.id.as_str())),
    };
    let since = holder.since.and_then(|since| SystemTime::now().duration_since(since).ok());
    let since = since.map_or_else(String::new, |held| format!(" for {}", duration(held)));
    let left = holder.remaining.map_or_else(String::new, |left| format!(", lease ends in {}", duration(left)));
    format!("{who}{since}{left}")
}

/// Who holds a lock, and how many wait.
pub(crate) fn holders(info: &LockInfo) -> String {
    let holders: Vec<_> = info.holders.iter().map(holder).collect();
    let who = if holders.is_empty() { "nobody at the moment".to_owned() } else { holders.join("; ") };
    match info.waiters.as_ref().map(Vec::len) {
        None | Some(0) => who,
        Some(1) => format!("{who}; 1 waits"),
        Some(many) => format!("{who}; {many} wait"),
    }
}

/// A table without the blanks at the ends of its lines.
pub(crate) fn lines(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Writes to the standard output. A reader that has left is no failure.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_gives_the_terminal_no_orders() {
        assert_eq!(plain("caf\u{e9} \u{1b}[2K\rjob\u{202e}x"), "caf\u{e9} \u{fffd}[2K\u{fffd}job\u{fffd}x");
    }

    #[test]
    fn durations_are_short() {
        for (millis, text) in [(5, "5ms"), (1_234, "1s 200ms"), (61_999, "1m 1s"), (90_061_000, "1day 1h 1m")] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }
}
