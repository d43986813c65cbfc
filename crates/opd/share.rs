//! How many of each step's rows are recorded ones of another run: exact over time, and the same however often it is asked.

/// Parts of a whole.
const WHOLE: u128 = 1_000_000;

/// The share of a step's rows that are another run's, in millionths; 0 where all are the run's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// No row.
    pub const NONE: Self = Self(0);

    /// The nearest to `share`; `None` unless that is above 0 and below 1.
    pub fn of(share: f64) -> Option<Self> {
        let parts = (share * WHOLE as f64).round();
        (parts > 0.0 && parts < WHOLE as f64).then_some(Self(parts as u32))
    }

    /// Whether no row is another run's.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The most rows of another run that a step of `rows` takes.
    pub fn most(self, rows: u32) -> u128 {
        (u128::from(rows) * u128::from(self.0)).div_ceil(WHOLE)
    }

    /// Rows of another run in the first `steps` steps of `rows` rows each, to the nearest whole one, half a row up. What a step takes is
    /// the difference of two of these, so that it never is more than a row off and errors do not add up.
    pub fn rows(self, steps: u64, rows: u32) -> u128 {
        // Below 2^64 * 2^32 * 2^20: no overflow.
        (u128::from(steps) * u128::from(rows) * u128::from(self.0) + WHOLE / 2) / WHOLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quarter_of_ten_is_two_or_three() {
        let share = Share::of(0.25).unwrap();
        let taken: Vec<u128> = (0..8).map(|step| share.rows(step + 1, 10) - share.rows(step, 10)).collect();
        assert_eq!(taken, [3, 2, 3, 2, 3, 2, 3, 2]);
    }

    #[test]
    fn a_share_lies_between_nothing_and_everything() {
        for bad in [0.0, 1.0, -0.25, 1.5, f64::NAN, f64::INFINITY, 1e-9] {
            assert_eq!(Share::of(bad), None, "{bad}");
        }
        assert!(Share::NONE.is_none() && !Share::of(1e-6).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn every_step_is_within_a_row_of_its_share_and_so_is_every_span(
            parts in 1u32..1_000_000, rows in 1u32..4_096, from in 0u64..1 << 40, steps in 1u64..1 << 20,
        ) {
            let share = Share::of(f64::from(parts) / 1e6).unwrap();
            prop_assert_eq!(share, Share(parts));
            let taken = share.rows(from + steps, rows) - share.rows(from, rows);
            let exact = steps as f64 * f64::from(rows) * f64::from(parts) / 1e6;
            prop_assert!((taken as f64 - exact).abs() <= 1.0 + 1e-6, "{} {}", taken, exact);
            prop_assert!(taken <= u128::from(steps) * u128::from(rows));
            prop_assert!(share.rows(from + 1, rows) - share.rows(from, rows) <= share.most(rows));
        }

        #[test]
        fn nothing_overflows(parts in 1u32..1_000_000, rows: u32, steps: u64) {
            prop_assert!(Share(parts).rows(steps, rows) <= u128::from(steps) * u128::from(rows));
        }
    }
}
