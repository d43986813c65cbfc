//! Times and sizes as people write them.

use std::time::Duration;

const TIMES: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 60 * 60), ("d", 24 * 60 * 60)];
const SIZES: [(&str, u64); 5] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000), ("B", 1)];

/// `30d`, `24h`, `15m` or `20s`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let whole = |(unit, seconds): (&str, u64)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(seconds).map(Duration::from_secs)
    };
    TIMES.into_iter().find_map(whole).ok_or_else(|| "a whole number and s, m, h or d, as in 30d".into())
}

/// `10GB`, `1.5TB`, `500MB`; units of a thousand.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let read = |(unit, size): (&str, u64)| {
        let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        (number.is_finite() && number >= 0.0).then_some((number * size as f64) as u64)
    };
    SIZES.into_iter().find_map(read).ok_or_else(|| "a number and B, kB, MB, GB or TB, as in 10GB".into())
}

/// A time in its two largest units.
pub(super) fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [("d", seconds / 86_400), ("h", seconds / 3_600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    let first = parts.iter().position(|(_, count)| *count > 0).unwrap_or(3);
    parts[first..].iter().take(2).map(|(unit, count)| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_as_they_are_written() {
        let seconds = |text: &str| time(text).map(|time| time.as_secs());
        assert_eq!(
            [seconds("30d"), seconds("24h"), seconds("15m"), seconds("0s")],
            [Ok(2_592_000), Ok(86_400), Ok(900), Ok(0)]
        );
        assert_eq!(
            [bytes("10GB"), bytes("1.5TB"), bytes("7 B"), bytes("2kB")],
            [Ok(10_000_000_000), Ok(1_500_000_000_000), Ok(7), Ok(2_000)]
        );
        for bad in ["", "d", "-1d", "1.5h", "3 weeks", "99999999999999999999d", "99999999999999999d"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        for bad in ["", "GB", "-1GB", "10", "10GiB", "infGB", "NaNB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        let short = |seconds| short(Duration::from_secs(seconds));
        assert_eq!([short(0), short(61), short(90_000), short(3_600)], ["0s", "1m 1s", "1d 1h", "1h 0m"]);
    }
}
