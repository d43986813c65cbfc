//! Packed teacher scores: bytes an entry, what the rounding costs, and speed, for each level of the codec and for what else scores
//! are kept in.
//!
//!     make bench-codec                                  # sampled and scored anew once, then from the cache
//!     STORE=runs/demo-smollm2 make bench-codec          # the rollouts of a store of pipelines/smollm2.toml, scored anew
//!
//! - `material`: a teacher's top-128 at each position of real rollouts, and the sets made from it;
//! - `peers`, `distillkit`: what the codec is compared to;
//! - `entropy`: what bounds the bytes;
//! - `measure`: the error, and the clock.
//!
//! One thread. Batches of 32 rows, as a unit of the pipeline has.

mod distillkit;
mod entropy;
mod material;
mod measure;
mod peers;

use codec::{Level, PackedTop, encode_top};
use material::Set;
use measure::Line;

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    tch::set_num_threads(2);
    let real = material::real()?;
    let mut lines = Vec::new();
    for set in [real.first(64), real.by_mass(0.9999), real.split(3).first(64), real.split(3).by_mass(0.9999)] {
        let (positions, entries) = (set.positions(), set.entries());
        println!(
            "\nvocabulary {}, k = {}: {positions} positions, {entries} entries in {} batches",
            set.vocabulary,
            set.k,
            set.batches.len()
        );
        entropy::print(&set);
        println!("\n{}", Line::HEADING);
        for level in Level::ALL {
            let encode = |set: &Set, batch: usize| Ok(encode_top(&set.batches[batch], level, set.vocabulary)?);
            let decode = |bytes: &[u8], _: &Set, _: usize| Ok(PackedTop::parse(bytes)?.decode(usize::MAX)?);
            lines.push(measure::measure(level.name(), &set, encode, decode)?);
        }
        lines.push(measure::measure("int32 + float32", &set, peers::encode_raw, peers::decode_raw)?);
        lines.push(measure::measure("the same + zstd 3", &set, peers::encode_zstd, peers::decode_zstd)?);
        lines.push(measure::measure("Parquet split + zstd", &set, peers::encode_parquet, peers::decode_parquet)?);
        lines.push(measure::measure("vLLM JSON", &set, peers::encode_json, peers::decode_json)?);
    }
    for set in [&real, &real.split(3)] {
        println!("\nvocabulary {}: the presets of DistillKit\n\n{}", set.vocabulary, Line::HEADING);
        for preset in [distillkit::RECOMMENDED, distillkit::BUDGET] {
            let fit = distillkit::Fit::new(preset);
            let encode = |set: &Set, batch: usize| fit.encode(&set.batches[batch], set.vocabulary);
            let decode =
                |bytes: &[u8], set: &Set, batch: usize| fit.decode(bytes, &set.batches[batch].layout, set.vocabulary);
            lines.push(measure::measure(preset.name, &set.first(preset.k), encode, decode)?);
        }
    }
    println!("\n{}", Line::CSV_HEADING);
    lines.iter().for_each(|line| println!("{}", line.csv()));
    Ok(())
}
