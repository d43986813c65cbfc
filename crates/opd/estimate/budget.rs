//! `--budget`: the cache of least variance for `reverse_kl_hybrid`, and what it gains over others at as many bytes.

use super::{Seen, table::short};
use crate::error::{CommandError, Result};
use learner::{
    estimate::{Allocation, Cost, Found, Line, Study},
    estimator::Baseline,
};
use std::fmt::Write;

/// The largest head that is looked at.
pub(super) const MOST_HEAD: usize = 512;

/// Draws and ids of those that it is compared with.
pub(super) const RIVAL: usize = 64;

/// The names of those.
pub(super) const RIVALS: [&str; 2] = ["reverse_kl_mc", "reverse_kl_student_top_k"];

/// What was found, as lines for a pipeline, and what is to be expected of it.
///
/// # Errors
/// If the budget does not hold a single draw.
pub(super) fn report(study: &Study, seen: &Seen<'_>, budget: f64) -> Result<String> {
    let all: Vec<usize> = (0..study.len()).collect();
    let allocate = Allocate { study, cost: seen.args.cost(), all: &all };
    let Some(found) = allocate.under(budget) else {
        let single = Allocation { floor: 1.0, most: 1, draws: 1, baseline: Baseline::Tail };
        let least = single.over(study.prefixes(), study.exact(), &all, &allocate.cost).bytes_per_token;
        let what = format!("--budget {budget}: a head of one id and a single draw need {least:.1} bytes a token");
        return Err(CommandError::new(what).hint(format!("give it more than {least:.1}")));
    };
    let mut text = format!("{}\n\n", seen.title());
    pipeline_lines(&mut text, &found);
    allocate.other_baseline(&mut text, &found);
    allocate.rivals(&mut text);
    allocate.by_entropy(&mut text);
    Ok(text)
}

struct Allocate<'a> {
    study: &'a Study,
    cost: Cost,
    /// Every position.
    all: &'a [usize],
}

impl Allocate<'_> {
    fn under(&self, budget: f64) -> Option<Found> {
        let (prefixes, exact) = (self.study.prefixes(), self.study.exact());
        Allocation::least_variance(prefixes, exact, self.all, &self.cost, budget, MOST_HEAD)
    }

    /// The same cache with the other baseline.
    fn other_baseline(&self, text: &mut String, found: &Found) {
        let baseline = match found.allocation.baseline {
            Baseline::Tail => Baseline::LeaveOneOut,
            Baseline::LeaveOneOut | Baseline::None => Baseline::Tail,
        };
        let other = Allocation { baseline, ..found.allocation };
        let variance = other.over(self.study.prefixes(), self.study.exact(), self.all, &self.cost).variance;
        // Writing to a string does not fail.
        let _ = writeln!(text, "with baseline = \"{}\" instead: variance {}", name(baseline), short(variance));
    }

    /// Each rival, and the hybrid at as many bytes; Monte-Carlo at its raw size too, as its authors keep it.
    fn rivals(&self, text: &mut String) {
        let lines = self.study.lines(&vec![0; self.all.len()], &self.cost);
        let raw = Cost::RAW.draw * RIVAL as f64;
        let of_mc = |line: &&Line| line.estimator.starts_with("reverse_kl_mc");
        let at_raw = lines.iter().filter(of_mc).map(|line| Line { bytes_per_token: raw, ..line.clone() });
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\n{:<32} {:>3} {:>3} {:>11} {:>8} {:>9} | hybrid at as many bytes: {:>9} {:>14} {:>12}",
            "at equal bytes", "k", "m", "bytes/token", "bias", "variance", "variance", "times less", "error, times"
        );
        for line in lines.iter().cloned().chain(at_raw) {
            let Some(found) = self.under(line.bytes_per_token) else { continue };
            let less = match line.m {
                0 => "-".into(),
                _ => format!("{:.1}", line.figures.variance / found.variance),
            };
            let _ = writeln!(
                text,
                "{:<32} {:>3} {:>3} {:>11.1} {:>8} {:>9} | {:>34} {less:>14} {:>12.2}",
                line.estimator,
                line.k,
                line.m,
                line.bytes_per_token,
                short(line.figures.bias),
                short(line.figures.variance),
                short(found.variance),
                line.figures.error() / found.variance.sqrt()
            );
        }
    }

    /// Monte-Carlo and the allocation at as many bytes over all, by tenths of the positions in order of the sampler's entropy.
    fn by_entropy(&self, text: &mut String) {
        let is_mc = |line: &Line| line.estimator == RIVALS[0];
        let over_all = self.study.lines(&vec![0; self.all.len()], &self.cost).into_iter().find(is_mc);
        let Some((line, found)) = over_all.and_then(|line| Some((line.clone(), self.under(line.bytes_per_token)?)))
        else {
            return;
        };
        let entropy = self.study.prefixes().entropy();
        let mut order = self.all.to_vec();
        order.sort_by(|a, b| entropy[*a].total_cmp(&entropy[*b]));
        let mut tenths = vec![0; order.len()];
        for (place, position) in order.iter().enumerate() {
            tenths[*position] = (10 * place / order.len()) as u64;
        }
        let Allocation { floor, draws, .. } = found.allocation;
        let _ = writeln!(
            text,
            "\nby entropy, with {:.1} bytes a token over all: floor {floor}, {draws} draws against {} with m = {RIVAL}\n\n\
             {:<8} {:>8} {:>9} | allocation: {:>5} {:>11} {:>9} | m = {RIVAL}: {:>11} {:>9} | {:>14}",
            found.bytes_per_token,
            line.estimator,
            "entropy",
            "nats",
            "positions",
            "head",
            "bytes/token",
            "variance",
            "bytes/token",
            "variance",
            "times less"
        );
        for line in self.study.lines(&tenths, &self.cost).iter().filter(|line| is_mc(line)) {
            let members: Vec<usize> = self.all.iter().copied().filter(|i| tenths[*i] == line.group).collect();
            let found = found.allocation.over(self.study.prefixes(), self.study.exact(), &members, &self.cost);
            let nats = members.iter().map(|i| f64::from(entropy[*i])).sum::<f64>() / members.len() as f64;
            let _ = writeln!(
                text,
                "{:<8} {nats:>8.2} {:>9} | {:>17.1} {:>11.1} {:>9} | {:>19.1} {:>9} | {:>14.1}",
                format!("tenth {}", line.group + 1),
                members.len(),
                found.head,
                found.bytes_per_token,
                short(found.variance),
                line.bytes_per_token,
                short(line.figures.variance),
                line.figures.variance / found.variance
            );
        }
    }
}

/// As a pipeline names it.
fn name(baseline: Baseline) -> &'static str {
    match baseline {
        Baseline::Tail => "tail",
        Baseline::LeaveOneOut => "leave_one_out",
        Baseline::None => "none",
    }
}

fn pipeline_lines(text: &mut String, found: &Found) {
    let Allocation { floor, most, draws, baseline } = found.allocation;
    // No more ids than one by the floor fit into the mass.
    let most = most.min((1.0 / floor).ceil() as usize);
    let baseline = name(baseline);
    let _ = writeln!(
        text,
        "rollout.top_k_floor = {floor}\nrollout.top_k_mass = 1.0\nrollout.top_k_max = {most}\nrollout.draws = {draws}\n\
         rollout.draws_kept = \"tail\"\n\
         learn.estimator = {{ name = \"reverse_kl_hybrid\", top_k = {most}, draws = {draws}, baseline = \"{baseline}\" }}\n\n\
         to be expected: {:.1} bytes a token ({:.1} ids in the head), bias 0, variance {}",
        found.bytes_per_token,
        found.head,
        short(found.variance)
    );
}
