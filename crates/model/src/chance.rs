//! Chance as a pure function: the same (seed, position, draw) gives the same number on every machine, in any order and in
//! any batch. Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

use sha2::{Digest, Sha256};

/// Ten rounds of Philox over a 128-bit counter under a 64-bit key.
fn philox(mut counter: [u32; 4], key: u64) -> [u32; 4] {
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ k0, b as u32, (a >> 32) as u32 ^ counter[3] ^ k1, a as u32];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    counter
}

/// 64 bits of chance at the counter (`a`, `b`) under `key`.
fn bits(key: u64, a: u64, b: u64) -> u64 {
    let words = philox([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32], key);
    u64::from(words[0]) | u64::from(words[1]) << 32
}

/// A uniform number in the open interval (0, 1), for draw `draw` at response position `position` of the row `row_seed`.
///
/// It is an odd multiple of 2^-53, so neither 0 nor 1 can occur.
pub fn uniform(row_seed: u64, position: u64, draw: u64) -> f64 {
    let high = bits(row_seed, position, draw) >> 12;
    (high as f64 + 0.5) * (1.0 / (1_u64 << 52) as f64)
}

/// The seed of one rollout, a function of what names it and of nothing else.
pub fn row_seed(run_seed: u64, prompt: u64, sample: u64, policy_version: u64) -> u64 {
    bits(bits(run_seed, prompt, sample), policy_version, 1)
}

/// A name (of a prompt, of a tensor) as a number that [`row_seed`] takes: the first 64 bits of its SHA-256.
pub fn name_key(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(8).fold(0, |key, &byte| key << 8 | u64::from(byte))
}

/// `n` numbers from the standard normal distribution under `key` (Box and Muller 1958).
pub(crate) fn normals(key: u64, n: usize) -> Vec<f64> {
    let mut values = Vec::with_capacity(n + 1);
    for pair in 0..n.div_ceil(2) as u64 {
        let radius = (-2.0 * uniform(key, pair, 0).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * uniform(key, pair, 1)).sin_cos();
        values.extend([radius * cos, radius * sin]);
    }
    values.truncate(n);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with their library.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], 0), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([u32::MAX; 4], u64::MAX), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        assert_eq!(philox(pi, 0x299f31d0_a4093822), [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
    }

    #[test]
    fn uniforms_fill_the_open_interval_evenly() {
        let mut bins = [0_u32; 64];
        let mut sum = 0.0;
        for position in 0..1000 {
            for draw in 0..64 {
                let u = uniform(7, position, draw);
                assert!(0.0 < u && u < 1.0);
                bins[(u * 64.0) as usize] += 1;
                sum += u;
            }
        }
        // 1000 expected in a bin, standard deviation 31.4; the numbers are fixed, so this either holds for ever or never.
        assert!(bins.iter().all(|&n| (860..1140).contains(&n)), "{bins:?}");
        assert!((sum / 64_000.0 - 0.5).abs() < 0.004);
    }

    #[test]
    fn neighbours_share_nothing() {
        let base = uniform(1, 2, 3);
        for other in [uniform(2, 2, 3), uniform(1, 3, 3), uniform(1, 2, 4), uniform(1, 3, 2)] {
            assert!((base - other).abs() > 1e-6);
        }
        let seed = row_seed(1, 2, 3, 4);
        for other in [row_seed(2, 2, 3, 4), row_seed(1, 3, 3, 4), row_seed(1, 2, 4, 4), row_seed(1, 2, 3, 5)] {
            assert_ne!(seed, other);
        }
        assert_ne!(row_seed(1, 2, 3, 4), row_seed(1, 3, 2, 4));
        assert_ne!(name_key("a"), name_key("b"));
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let values = normals(3, 20_001);
        assert_eq!(values.len(), 20_001);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
