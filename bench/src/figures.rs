//! [`Figures`]: what the turns of one round say.

use crate::turn::Turn;
use crate::workload::Workload;
use hdrhistogram::Histogram;
use std::collections::HashMap;
use std::time::Duration;

/// What the turns of one round say.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Pairs of acquire and release in a second; under contention hand-overs from one task to another.
    pub rate: f64,
    /// Nanoseconds: of a whole pair, or under contention from asking to holding.
    pub times: Histogram<u64>,
    /// Turns of the task that got the fewest, and of the one that got the most.
    pub served: (u64, u64),
    /// How often one held a lock that another still held: must be 0.
    pub overlaps: u64,
    /// All turns.
    pub turns: u64,
}

impl Figures {
    /// The figures of a round that lasted from `from` to `until`.
    ///
    /// # Panics
    /// Never: the histogram grows.
    pub fn of(workload: &Workload, turns: &mut [Turn], from: u64, until: u64) -> Self {
        turns.sort_unstable_by_key(|turn| turn.acquired);
        let mut times = Histogram::new(3).expect("3 digits");
        let mut served: HashMap<u32, u64> = HashMap::new();
        let contended = workload.is_contended();
        for turn in turns.iter() {
            let end = if contended { turn.acquired } else { turn.done };
            times.record(end.saturating_sub(turn.asked).max(1)).expect("it grows");
            *served.entry(turn.who).or_default() += u64::from(turn.acquired <= until);
        }
        let in_time = |turn: &Turn| if contended { turn.acquired <= until } else { turn.done <= until };
        let (mut counted, mut overlaps) = (0_u64, 0_u64);
        if contended {
            for pair in turns.windows(2) {
                counted += u64::from(pair[0].who != pair[1].who && in_time(&pair[1]));
                overlaps += u64::from(pair[1].acquired < pair[0].released);
            }
        } else {
            counted = turns.iter().filter(|turn| in_time(turn)).count() as u64;
        }
        let tasks = (workload.tasks * workload.processes) as usize;
        let least = if served.len() < tasks { 0 } else { served.values().copied().min().unwrap_or(0) };
        let seconds = Duration::from_nanos(until - from).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let rate = counted as f64 / seconds;
        let most = served.values().copied().max().unwrap_or(0);
        Self { rate, times, served: (least, most), overlaps, turns: turns.len() as u64 }
    }
}

/// The middle one of an odd number, or the mean of the two in the middle. 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        many if many % 2 == 1 => sorted[many / 2],
        many => f64::midpoint(sorted[many / 2 - 1], sorted[many / 2]),
    }
}

/// Nanoseconds in the unit that fits.
#[allow(clippy::cast_precision_loss, reason = "for people")]
pub fn time_text(nanos: u64) -> String {
    let nanos = nanos as f64;
    match nanos {
        ..1e3 => format!("{nanos:.0} ns"),
        ..1e4 => format!("{:.1} µs", nanos / 1e3),
        ..1e6 => format!("{:.0} µs", nanos / 1e3),
        ..1e7 => format!("{:.1} ms", nanos / 1e6),
        ..1e9 => format!("{:.0} ms", nanos / 1e6),
        _ => format!("{:.1} s", nanos / 1e9),
    }
}

/// A rate with as many digits as mean something.
pub fn rate_text(rate: f64) -> String {
    let whole = format!("{rate:.0}");
    if rate < 100.0 {
        return format!("{rate:.1}");
    }
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(who: u32, asked: u64, acquired: u64, released: u64) -> Turn {
        Turn { who, asked, acquired, released, done: released + 5 }
    }

    #[test]
    fn hand_overs_are_between_different_tasks_within_the_time() {
        let workload = Workload::crowd(3, Duration::ZERO);
        // 0, 0, 1, 0 and, too late, 1; task 2 gets nothing.
        let mut turns = [
            turn(0, 0, 10, 20),
            turn(0, 25, 30, 40),
            turn(1, 0, 50, 60),
            turn(0, 45, 70, 80),
            turn(1, 65, 1_001, 1_002),
        ];
        let figures = Figures::of(&workload, &mut turns, 0, 1_000);
        assert_eq!((figures.rate, figures.served, figures.overlaps), (2.0 * 1e6, (0, 3), 0));
        assert_eq!(figures.times.max(), 936);
    }

    #[test]
    fn two_at_once_are_seen() {
        let mut turns = [turn(0, 0, 10, 30), turn(1, 0, 20, 40)];
        assert_eq!(Figures::of(&Workload::crowd(2, Duration::ZERO), &mut turns, 0, 100).overlaps, 1);
    }

    #[test]
    fn pairs_are_whole() {
        let mut turns = [turn(0, 0, 10, 20), turn(0, 30, 40, 50), turn(0, 95, 97, 98)];
        let figures = Figures::of(&Workload::lone(), &mut turns, 0, 100);
        assert_eq!((figures.rate, figures.times.min(), figures.turns), (2.0 * 1e7, 8, 3));
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([12.34, 512.0, 1_234_567.0].map(rate_text), ["12.3", "512", "1,234,567"]);
        assert_eq!(
            [900, 4_200, 42_000, 4_200_000, 42_000_000, 4_200_000_000].map(time_text),
            ["900 ns", "4.2 µs", "42 µs", "4.2 ms", "42 ms", "4.2 s"]
        );
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0]), median(&[])), (2.0, 2.5, 0.0));
    }
}
