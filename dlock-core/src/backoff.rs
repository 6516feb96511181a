//! The pauses between repeated requests.

use std::time::Duration;

/// Endless pauses that double from 10 ms to 1 s, each shortened by up to a half at random, so that clients that failed
/// together do not come back together.
pub fn backoff() -> impl Iterator<Item = Duration> + Send {
    let longest = Duration::from_secs(1);
    std::iter::successors(Some(Duration::from_millis(10)), move |pause| Some((*pause * 2).min(longest)))
        .map(|pause| pause.mul_f64(rand::random_range(0.5..1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_never_end() {
        let pauses: Vec<_> = backoff().take(100).collect();
        assert!(pauses[0] <= Duration::from_millis(10));
        assert!(pauses[20..].iter().all(|pause| (500..=1000).contains(&pause.as_millis())));
    }
}
