//! From what was seen of each problem to the numbers of an evaluation. Pure.

use record::Ratio;
use std::collections::{BTreeMap, BTreeSet};

/// What was seen of one problem.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Whether the greedy answer was right; none where none was asked for.
    pub greedy: Option<bool>,
    /// Its tokens.
    pub greedy_tokens: u64,
    /// Whether each sampled answer was right, in their order; none where the problem has no answer.
    pub sampled: Vec<bool>,
    /// Sampled answers.
    pub responses: u64,
    /// Those of them that reached the longest length.
    pub clipped: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Reverse KL in nats, summed over those tokens; none where it was not computed.
    pub reverse_kl: Option<f64>,
}

/// Greedy accuracy, and the accuracy of sampled answers (Avg@k), each with the count it is of.
pub fn accuracies(seen: &[Seen]) -> (Ratio, Ratio) {
    (accuracy(seen.iter()), average(seen.iter()))
}

/// Every metric of an evaluation; where the problems come from several sources, also by source.
pub fn metrics(seen: &[Seen], sources: &[&str]) -> BTreeMap<String, Ratio> {
    let samples = seen.iter().map(|seen| seen.sampled.len()).max().unwrap_or(0);
    let of = |count: fn(&Seen) -> u64| seen.iter().map(count).sum::<u64>() as f64;
    let solved = |right: fn(&[bool]) -> bool| seen.iter().filter(|seen| right(&seen.sampled)).count() as f64;
    let (responses, problems) = (of(|seen| seen.responses), seen.len() as f64);
    let mut metrics = BTreeMap::from([
        ("completions/mean_length".to_string(), (of(|seen| seen.tokens), responses)),
        ("completions/clipped_ratio".to_string(), (of(|seen| seen.clipped), responses)),
    ]);
    if samples > 0 {
        metrics.insert("pass@1".into(), (solved(|sampled| sampled.first() == Some(&true)), problems));
        metrics.insert(format!("pass@{samples}"), (solved(|sampled| sampled.contains(&true)), problems));
        metrics.insert(format!("avg@{samples}"), average(seen.iter()));
    }
    metrics.extend(reverse_kl(seen.iter()).map(|ratio| ("reverse_kl".to_string(), ratio)));
    let names: BTreeSet<&str> = sources.iter().copied().collect();
    if names.len() > 1 {
        for name in names {
            let part = || seen.iter().zip(sources).filter(|(_, source)| **source == name).map(|(seen, _)| seen);
            let name = if name.is_empty() { "(none)" } else { name };
            if samples > 0 {
                metrics.insert(format!("accuracy/{name}"), accuracy(part()));
                metrics.insert(format!("avg@{samples}/{name}"), average(part()));
            }
            metrics.extend(reverse_kl(part()).map(|ratio| (format!("reverse_kl/{name}"), ratio)));
        }
    }
    metrics
}

fn accuracy<'a>(seen: impl Iterator<Item = &'a Seen>) -> Ratio {
    mean(seen.filter_map(|seen| seen.greedy))
}

fn average<'a>(seen: impl Iterator<Item = &'a Seen>) -> Ratio {
    mean(seen.flat_map(|seen| seen.sampled.iter().copied()))
}

fn mean(right: impl Iterator<Item = bool>) -> Ratio {
    right.fold((0.0, 0.0), |(sum, count), right| (sum + f64::from(u8::from(right)), count + 1.0))
}

fn reverse_kl<'a>(seen: impl Iterator<Item = &'a Seen>) -> Option<Ratio> {
    let known = seen.filter_map(|seen| Some((seen.reverse_kl?, seen.tokens as f64)));
    known.reduce(|(sum, count), (kl, tokens)| (sum + kl, count + tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(greedy: bool, sampled: &[bool], reverse_kl: f64) -> Seen {
        Seen {
            greedy: Some(greedy),
            greedy_tokens: 9,
            sampled: sampled.to_vec(),
            responses: sampled.len() as u64,
            clipped: 1,
            tokens: 10,
            reverse_kl: Some(reverse_kl),
        }
    }

    #[test]
    fn problems_are_counted_as_a_whole_and_by_source() {
        let seen = [
            seen(true, &[false, true, true], 1.0),
            seen(false, &[true, false, false], 2.0),
            seen(true, &[false, false, false], 4.5),
        ];
        assert_eq!(accuracies(&seen), ((2.0, 3.0), (3.0, 9.0)));
        let found = metrics(&seen, &["a", "", "a"]);
        let expected = [
            ("accuracy/(none)", (0.0, 1.0)),
            ("accuracy/a", (2.0, 2.0)),
            ("avg@3", (3.0, 9.0)),
            ("avg@3/(none)", (1.0, 3.0)),
            ("avg@3/a", (2.0, 6.0)),
            ("completions/clipped_ratio", (3.0, 9.0)),
            ("completions/mean_length", (30.0, 9.0)),
            ("pass@1", (1.0, 3.0)),
            ("pass@3", (2.0, 3.0)),
            ("reverse_kl", (7.5, 30.0)),
            ("reverse_kl/(none)", (2.0, 10.0)),
            ("reverse_kl/a", (5.5, 20.0)),
        ];
        assert_eq!(found, expected.into_iter().map(|(name, ratio)| (name.to_string(), ratio)).collect());
        let names: Vec<String> = metrics(&seen, &["a", "a", "a"]).into_keys().collect();
        assert!(names.iter().all(|name| !name.ends_with("/a")), "{names:?}");
    }

    #[test]
    fn what_was_not_asked_for_has_no_number() {
        let unanswered = Seen { responses: 2, tokens: 8, reverse_kl: Some(4.0), ..Seen::default() };
        assert_eq!(accuracies(std::slice::from_ref(&unanswered)), ((0.0, 0.0), (0.0, 0.0)));
        let names: Vec<String> = metrics(&[unanswered.clone(), unanswered], &["a", "b"]).into_keys().collect();
        assert_eq!(
            names,
            ["completions/clipped_ratio", "completions/mean_length", "reverse_kl", "reverse_kl/a", "reverse_kl/b"]
        );
        let plain = Seen { greedy: Some(true), sampled: vec![true], responses: 1, tokens: 3, ..Seen::default() };
        let names: Vec<String> = metrics(&[plain], &[""]).into_keys().collect();
        assert_eq!(names, ["avg@1", "completions/clipped_ratio", "completions/mean_length", "pass@1"]);
    }
}
