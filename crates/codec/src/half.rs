//! IEEE 754 binary16, for log tail masses: 11 bits of precision at every magnitude that a log mass has.

/// The nearest binary16, ties to even; beyond its range infinite.
pub(crate) fn to_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    // From 65520 on, halfway between the largest binary16 and what would follow it.
    if magnitude >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    if magnitude < 0x3880_0000 {
        // Below 2^-14 a binary16 counts steps of 2^-24; both factors are powers of two, so only the rounding is inexact.
        return sign | (f32::from_bits(magnitude) * 16_777_216.0).round_ties_even() as u16;
    }
    let rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    sign | ((rounded - 0x3800_0000) >> 13) as u16
}

/// The same number as a binary32: exact.
pub(crate) fn from_half(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff);
    let bits = match magnitude {
        0..0x400 => (magnitude as f32 / 16_777_216.0).to_bits(),
        0x400..0x7c00 => (magnitude << 13) + 0x3800_0000,
        _ => (magnitude << 13) | 0x7f80_0000,
    };
    f32::from_bits(sign | bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_and_known_values_are_right() {
        for half in 0..=u16::MAX {
            let value = from_half(half);
            if value.is_nan() {
                assert!(from_half(to_half(value)).is_nan());
            } else {
                assert_eq!(to_half(value), half, "{value}");
            }
        }
        for (value, half) in [(1.0, 0x3c00), (-2.0, 0xc000), (65504.0, 0x7bff), (65520.0, 0x7c00), (5.960_464_5e-8, 1)]
        {
            assert_eq!(to_half(value), half, "{value}");
        }
    }

    #[test]
    fn what_lies_between_two_halves_goes_to_the_nearer_and_a_tie_to_the_even() {
        for half in (0..0x7bff_u16).step_by(7) {
            let (low, high) = (from_half(half), from_half(half + 1));
            let middle = f32::midpoint(low, high);
            assert_eq!(to_half(middle), half + (half & 1));
            assert_eq!(to_half(f32::midpoint(low, middle)), half);
            assert_eq!(to_half(f32::midpoint(middle, high)), half + 1);
        }
    }
}
