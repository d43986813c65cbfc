//! Log-probabilities in rank order as whole numbers, and back to a distribution.
//!
//! Inside the decoder a log-probability is a number of units, 1,024 to a nat, below 0. Both lossy levels come here: `fast` counts
//! units, in steps that grow with the distance from the entry before; `compact` counts every sixteenth.

use std::sync::LazyLock;

/// Units of a nat.
pub(crate) const NAT: u32 = 1024;
/// Minus infinity.
pub(crate) const SILENT: u32 = u32::MAX;
/// Steps of a nat at level `compact`.
pub(crate) const COMPACT_STEPS: u32 = 64;
/// Values of `compact` from here on are minus infinity: 65,536 nats.
const COMPACT_END: u32 = 1 << 22;
/// The code of `fast` for minus infinity.
pub(crate) const FAST_SILENT: u8 = 255;

/// A distance in units for each code of `fast`: 0 to 1 nat in steps of 1/128, then steps that grow by a 25th.
pub(crate) static FAST_STEPS: [u32; 255] = {
    let mut steps = [0; 255];
    let (mut code, mut step_64ths) = (1, 8 * 64);
    // Distances are kept in 64ths of a unit so that the growth is smooth; what is stored is rounded down.
    let mut distance_64ths = 0;
    while code < 255 {
        if code > 128 {
            step_64ths += step_64ths / 25;
        }
        distance_64ths += step_64ths;
        steps[code] = distance_64ths / 64;
        code += 1;
    }
    steps
};

/// A log-probability as a number of `compact`, or `None` for minus infinity.
pub(crate) fn compact_value(logprob: f32) -> Option<u32> {
    let value = (f64::from(-logprob) * f64::from(COMPACT_STEPS)).round().max(0.0);
    (value < f64::from(COMPACT_END)).then_some(value as u32)
}

/// The first log-probability of a list as units for `fast`; 65,535 is minus infinity.
pub(crate) fn fast_head(logprob: f32) -> u16 {
    // `as` takes what is too large to the end.
    (f64::from(-logprob) * f64::from(NAT)).round().max(0.0) as u16
}

/// Units of a stored head.
#[inline(always)]
pub(crate) fn fast_head_units(head: u16) -> u32 {
    if head == u16::MAX { SILENT } else { u32::from(head) }
}

/// The code whose distance from `before` comes nearest to `logprob`, and the units it decodes to.
pub(crate) fn fast_code(logprob: f32, before: u32) -> (u8, u32) {
    if before == SILENT || logprob == f32::NEG_INFINITY {
        return (FAST_SILENT, SILENT);
    }
    let wanted = f64::from(-logprob) * f64::from(NAT) - f64::from(before);
    let above = FAST_STEPS.partition_point(|step| f64::from(*step) < wanted).min(254);
    let below = above.saturating_sub(1);
    let nearer =
        |a: usize, b: usize| (f64::from(FAST_STEPS[a]) - wanted).abs() <= (wanted - f64::from(FAST_STEPS[b])).abs();
    let code = if nearer(above, below) { above } else { below };
    (code as u8, before + FAST_STEPS[code])
}

/// `exp` of minus a number of units, as the product of two: of whole nats and of the rest.
struct Exp {
    nats: [f32; 256],
    rest: [f32; NAT as usize],
}

static EXP: LazyLock<Exp> = LazyLock::new(|| Exp {
    // Below e^-87 a float32 loses precision; such masses count as none.
    nats: std::array::from_fn(|n| if n < 87 { (-(n as f64)).exp() as f32 } else { 0.0 }),
    rest: std::array::from_fn(|n| (-(n as f64) / f64::from(NAT)).exp() as f32),
});

impl Exp {
    #[inline(always)]
    fn at(&self, units: u32) -> f32 {
        self.nats[(units / NAT).min(255) as usize] * self.rest[(units % NAT) as usize]
    }
}

/// Turns the units of lists into log-probabilities.
pub(crate) struct Normaliser(&'static Exp);

impl Normaliser {
    pub fn new() -> Self {
        Self(&EXP)
    }

    /// Appends the first `keep` log-probabilities of a list to `out`, and gives its log tail mass, to which it adds the others.
    ///
    /// q_j <- q_j (1 - q_T) / sum q, so that list and tail are a distribution, whatever rounding did to them.
    #[inline]
    pub fn finish(&self, units: &[u32], tail: f32, keep: usize, out: &mut Vec<f32>) -> f32 {
        if units.is_empty() {
            return tail;
        }
        let kept = &units[..keep.min(units.len())];
        let sum_of = |units: &[u32]| units.iter().map(|u| f64::from(self.0.at(*u))).sum::<f64>();
        let (mass, dropped) = (sum_of(kept), sum_of(&units[kept.len()..]));
        let inside = -f64::from(tail.min(0.0)).exp_m1();
        // With no mass on one side there is nothing to scale.
        let scale = inside / (mass + dropped);
        let scale = if scale > 0.0 && scale.is_finite() { scale } else { 1.0 };
        let shift = scale.ln() as f32;
        out.extend(kept.iter().map(|u| match *u {
            SILENT => f32::NEG_INFINITY,
            u => (shift - u as f32 / NAT as f32).min(0.0),
        }));
        if kept.len() == units.len() { tail } else { (f64::from(tail).exp() + dropped * scale).ln().min(0.0) as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_steps_of_fast_rise_to_where_no_mass_is_left() {
        assert!(FAST_STEPS.windows(2).all(|w| w[0] < w[1]));
        assert_eq!((FAST_STEPS[0], FAST_STEPS[1], FAST_STEPS[128]), (0, 8, 1024));
        assert!((24 * NAT..30 * NAT).contains(&FAST_STEPS[254]), "{}", FAST_STEPS[254]);
    }

    proptest! {
        #[test]
        fn no_other_code_comes_nearer(logprob in -30.0_f32..0.0, before in 0_u32..20_000) {
            let (code, units) = fast_code(logprob, before);
            let distance = |units: u32| (f64::from(units) + f64::from(logprob) * 1024.0).abs();
            prop_assert_eq!(units, before + FAST_STEPS[usize::from(code)]);
            let best = FAST_STEPS.iter().map(|step| distance(before + step)).fold(f64::INFINITY, f64::min);
            prop_assert_eq!(distance(units), best);
        }

        #[test]
        fn a_finished_list_and_its_tail_are_a_distribution(
            units in prop::collection::vec(0_u32..20_000, 1..100), tail in -20.0_f32..-0.001, keep in 0_usize..110,
        ) {
            let mut out = Vec::new();
            let rest = Normaliser::new().finish(&units, tail, keep, &mut out);
            prop_assert_eq!(out.len(), keep.min(units.len()));
            let sum: f64 = out.iter().chain([&rest]).map(|x| f64::from(*x).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 2e-5, "{}", sum);
        }
    }

    #[test]
    fn lists_without_mass_stay_as_they_are() {
        let mut out = Vec::new();
        assert_eq!(Normaliser::new().finish(&[SILENT, SILENT], 0.0, 9, &mut out), 0.0);
        assert_eq!(out, [f32::NEG_INFINITY; 2]);
        assert_eq!(Normaliser::new().finish(&[], -0.5, 9, &mut out), -0.5);
        let mut sure = Vec::new();
        assert_eq!(Normaliser::new().finish(&[3], f32::NEG_INFINITY, 9, &mut sure), f32::NEG_INFINITY);
        assert!(sure[0].abs() < 1e-6, "{sure:?}");
    }
}
