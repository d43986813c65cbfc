//! Every estimator of the menu at every budget, position by position, and what it comes to over a group of them.

use super::{
    bytes::Cost,
    distributions::{Distributions, Exact, Target, over_vocabulary},
    draws::{self, Baseline},
    figures::{Figures, Moments, numbers},
    harm::Harm,
    menu::{ANY, M2PO, Subject, Way, menu},
    prefixes::Prefixes,
    replicates::{self, REPLICATES},
    support::{Lists, Ranked},
};
use std::collections::BTreeMap;
use tch::Tensor;

/// What may be cached.
#[derive(Clone, Debug, PartialEq)]
pub struct Budgets {
    /// The teacher's top-k.
    pub teacher_top_k: Lists,
    /// The sampler's top-k.
    pub sampler_top_k: Lists,
    /// Numbers of draws, ascending.
    pub draws: Vec<usize>,
    /// The largest head that an allocation may take.
    pub head: usize,
}

/// One estimator at one budget over one group of positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name in pipelines, then what is not its default.
    pub estimator: &'static str,
    /// Ids of its top-k; 0 where it has none.
    pub k: usize,
    /// Draws; 0 where it has none.
    pub m: usize,
    /// Expected bytes of the cache that it reads, a token.
    pub bytes_per_token: f64,
    /// Which group.
    pub group: u64,
    /// Of its gradient.
    pub figures: Figures,
    /// Whether draws were sampled for it, so that the figures are themselves estimates.
    pub sampled: bool,
}

/// What has been seen so far.
pub struct Study {
    budgets: Budgets,
    subjects: Vec<Subject>,
    /// By subject, size of its support or 0, and number of its draws where it is not linear in them or 0.
    moments: BTreeMap<(usize, usize, usize), Moments>,
    baselines: BTreeMap<usize, Baseline>,
    /// |g*|^2 a position.
    exact: BTreeMap<Target, Vec<f64>>,
    /// Entries of the two top-k a position, by size.
    entries: [BTreeMap<usize, Vec<f64>>; 2],
    /// Distinct draws from the teacher a position, by their number.
    teacher_draws: BTreeMap<usize, Vec<f64>>,
    prefixes: Prefixes,
    /// What `m2po` needs to know of each group.
    harm: BTreeMap<u64, Harm>,
}

impl Study {
    /// Nothing seen yet, of every estimator of the menu.
    pub fn new(budgets: Budgets) -> Self {
        Self::of(budgets, |_| true)
    }

    /// The same of those whose names are `wanted`.
    pub fn of(budgets: Budgets, wanted: impl Fn(&str) -> bool) -> Self {
        let largest = budgets.sampler_top_k.sizes.last().copied().unwrap_or(0).max(budgets.head);
        Self {
            prefixes: Prefixes::new(largest),
            subjects: menu().into_iter().filter(|subject| wanted(subject.name)).collect(),
            moments: BTreeMap::new(),
            baselines: BTreeMap::new(),
            exact: BTreeMap::new(),
            entries: Default::default(),
            teacher_draws: BTreeMap::new(),
            harm: BTreeMap::new(),
            budgets,
        }
    }

    /// Positions seen.
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// The heads at each position.
    pub fn prefixes(&self) -> &Prefixes {
        &self.prefixes
    }

    /// |g*|^2 of the reverse KL at each position.
    pub fn exact(&self) -> &[f64] {
        self.exact.get(&Target::ReverseKl).map_or(&[], Vec::as_slice)
    }

    /// Whether all positions are to be gone through twice: [`Study::prepare`], then [`Study::add`].
    pub fn asks_twice(&self) -> bool {
        self.subjects.iter().any(|subject| subject.way == Way::Margins)
    }

    /// Looks at N positions of a group before any of them is added: some margins are those of the group as one minibatch.
    pub fn prepare(&mut self, of: &Distributions, group: u64) {
        let _guard = tch::no_grad_guard();
        self.harm.entry(group).or_insert_with(Harm::new).add(of);
    }

    /// Looks at N more positions, of a group that is prepared. `uniform` gives a uniform number for a position, counted from 0
    /// within these, and a draw.
    pub fn add(&mut self, of: &Distributions, group: u64, uniform: impl Fn(usize, usize) -> f64) {
        let _guard = tch::no_grad_guard();
        self.prefixes.add(of);
        let exact: BTreeMap<Target, Exact> = Target::ALL.into_iter().map(|target| (target, of.exact(target))).collect();
        for (target, exact) in &exact {
            self.exact.entry(*target).or_default().extend(numbers(&(&exact.square * &of.inverse_square)));
        }
        let budgets = &self.budgets;
        let sides = [(&of.log_q, &budgets.teacher_top_k), (&of.log_b, &budgets.sampler_top_k)];
        let ranked = sides.map(|(log, lists)| (!lists.sizes.is_empty()).then(|| Ranked::by(log, of, lists)));
        for ((entries, ranked), (_, lists)) in self.entries.iter_mut().zip(&ranked).zip(sides) {
            for (k, ranked) in lists.sizes.iter().zip(ranked.iter().cycle()) {
                entries.entry(*k).or_default().extend(numbers(&ranked.entries(*k as i64)));
            }
        }
        for m in &budgets.draws {
            let distinct = -(-&of.q + 1.0).pow_tensor_scalar(*m as i64) + 1.0;
            self.teacher_draws.entry(*m).or_default().extend(numbers(&over_vocabulary(&distinct)));
        }
        let sampled = self.sample(of, uniform);
        for (i, subject) in self.subjects.iter().enumerate() {
            let exact = &exact[&subject.target];
            let rule = subject.rule.as_ref();
            match subject.way {
                Way::Draws | Way::DrawsAndBaseline(_) if !budgets.draws.is_empty() => {
                    let coefficients = draws::coefficients(rule, of, &of.log_q, None);
                    let moments = self.moments.entry((i, 0, 0)).or_default();
                    draws::add(moments, of, exact, &of.b, &coefficients, None);
                    if let Way::DrawsAndBaseline(_) = subject.way {
                        self.baselines.entry(i).or_default().add(rule, of, &coefficients);
                    }
                }
                Way::Margins if !budgets.draws.is_empty() => {
                    // A group that nobody prepared has no harm done, and no margins.
                    let settled = self.harm.entry(group).or_insert_with(Harm::new).settle(M2PO, ANY);
                    let coefficients = draws::coefficients(&settled, of, &of.log_q, None);
                    draws::add(self.moments.entry((i, 0, 0)).or_default(), of, exact, &of.b, &coefficients, None);
                }
                Way::TeacherDraws if !budgets.draws.is_empty() => {
                    let coefficients = draws::coefficients(rule, of, &of.log_q, None);
                    let moments = self.moments.entry((i, 0, 0)).or_default();
                    draws::add(moments, of, exact, &of.q, &coefficients, None);
                }
                Way::Hybrid { teacher_head } if !budgets.draws.is_empty() => {
                    let side = usize::from(!teacher_head);
                    let Some(ranked) = &ranked[side] else { continue };
                    for k in &sides[side].1.sizes {
                        let [head, coefficients] = ranked.head_and_draws(rule, *k as i64, of);
                        let moments = self.moments.entry((i, *k, 0)).or_default();
                        draws::add(moments, of, exact, &of.b, &coefficients, Some(&head));
                    }
                }
                Way::Replicates => {
                    // At m = 1 there is nothing to normalise by.
                    for m in budgets.draws.iter().filter(|m| **m > 1) {
                        let moments = self.moments.entry((i, 0, *m)).or_default();
                        replicates::add(moments, rule, *m as i64, of, exact, &sampled, None);
                    }
                }
                Way::HybridReplicates => {
                    let Some(ranked) = &ranked[1] else { continue };
                    for (k, m) in pairs(&sides[1].1.sizes, &budgets.draws) {
                        let moments = self.moments.entry((i, k, m)).or_default();
                        let head = Some((ranked, k as i64));
                        replicates::add(moments, rule, m as i64, of, exact, &sampled, head);
                    }
                }
                Way::TeacherTopK | Way::SamplerTopK { .. } => {
                    let side = usize::from(subject.way != Way::TeacherTopK);
                    let Some(ranked) = &ranked[side] else { continue };
                    for k in &sides[side].1.sizes {
                        ranked.add(self.moments.entry((i, *k, 0)).or_default(), rule, *k as i64, of, exact);
                    }
                }
                Way::Draws | Way::DrawsAndBaseline(_) | Way::Margins | Way::TeacherDraws | Way::Hybrid { .. } => {}
            }
        }
    }

    /// Ids drawn for what cannot be had in closed form.
    fn sample(&self, of: &Distributions, uniform: impl Fn(usize, usize) -> f64) -> Tensor {
        let (n, _) = of.size();
        let any = self.subjects.iter().any(|subject| matches!(subject.way, Way::Replicates | Way::HybridReplicates));
        let most = if any { self.budgets.draws.last().copied().unwrap_or(0) } else { 0 };
        let each = REPLICATES as usize * most;
        let uniforms: Vec<f64> =
            (0..n as usize).flat_map(|i| (0..each).map(move |j| (i, j))).map(|(i, j)| uniform(i, j)).collect();
        replicates::draw(of, &Tensor::from_slice(&uniforms).view([n, each as i64]))
    }

    /// A line for each estimator, budget and group. `groups` says which group a position belongs to, in the order seen.
    pub fn lines(&self, groups: &[u64], cost: &Cost) -> Vec<Line> {
        let mut members: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (position, group) in groups.iter().enumerate() {
            members.entry(*group).or_default().push(position);
        }
        members.iter().flat_map(|(group, positions)| self.group(*group, positions, cost)).collect()
    }

    fn group(&self, group: u64, positions: &[usize], cost: &Cost) -> Vec<Line> {
        let mut lines = Vec::new();
        for (i, subject) in self.subjects.iter().enumerate() {
            let sums = |k: usize, m: usize| self.moments.get(&(i, k, m)).map(|moments| Sums::of(moments, positions));
            let exact = self.exact_over(subject.target, positions);
            let mut line = |estimator, k, m: usize, bytes_per_token, sums: &Sums, sampled| {
                let figures = Figures::of(sums.error, sums.mean, sums.along, sums.spread / m.max(1) as f64, exact);
                lines.push(Line { estimator, k, m, bytes_per_token, group, figures, sampled });
            };
            match subject.way {
                Way::Draws | Way::DrawsAndBaseline(_) | Way::Margins => {
                    let Some(sums) = sums(0, 0) else { continue };
                    for m in &self.budgets.draws {
                        line(subject.name, 0, *m, self.bytes_of_draws(positions, 0, *m, cost), &sums, false);
                    }
                    if let (Way::DrawsAndBaseline(name), Some(baseline)) = (subject.way, self.baselines.get(&i)) {
                        let sums = sums.with(baseline, positions);
                        for m in &self.budgets.draws {
                            line(name, 0, *m, self.bytes_of_draws(positions, 0, *m, cost), &sums, false);
                        }
                    }
                }
                Way::TeacherDraws => {
                    let Some(sums) = sums(0, 0) else { continue };
                    for (m, distinct) in &self.teacher_draws {
                        let draws = if cost.merged { mean(distinct, positions) } else { *m as f64 };
                        line(subject.name, 0, *m, draws * cost.teacher_draw, &sums, false);
                    }
                }
                Way::Hybrid { teacher_head } => {
                    for (k, entries) in &self.entries[usize::from(!teacher_head)] {
                        let Some(sums) = sums(*k, 0) else { continue };
                        let head = mean(entries, positions) * cost.entry + cost.tail;
                        for m in &self.budgets.draws {
                            let outside = if teacher_head { 0 } else { *k };
                            let bytes = head + self.bytes_of_draws(positions, outside, *m, cost);
                            line(subject.name, *k, *m, bytes, &sums, false);
                        }
                    }
                }
                Way::HybridReplicates => {
                    let sizes: Vec<usize> = self.entries[1].keys().copied().collect();
                    for (k, m) in pairs(&sizes, &self.budgets.draws) {
                        let Some(sums) = sums(k, m) else { continue };
                        let head = mean(&self.entries[1][&k], positions) * cost.entry + cost.tail;
                        let bytes = head + self.bytes_of_draws(positions, k, m, cost);
                        line(subject.name, k, m, bytes, &sums, true);
                    }
                }
                Way::Replicates => {
                    for m in &self.budgets.draws {
                        let Some(sums) = sums(0, *m) else { continue };
                        line(subject.name, 0, *m, self.bytes_of_draws(positions, 0, *m, cost), &sums, true);
                    }
                }
                Way::TeacherTopK | Way::SamplerTopK { .. } => {
                    let side = usize::from(subject.way != Way::TeacherTopK);
                    let extra = match subject.way {
                        Way::SamplerTopK { sampler_logprobs: true } => cost.sampler_logprob,
                        _ => 0.0,
                    };
                    for (k, entries) in &self.entries[side] {
                        let Some(sums) = sums(*k, 0) else { continue };
                        let bytes = mean(entries, positions) * (cost.entry + extra) + cost.tail;
                        line(subject.name, *k, 0, bytes, &sums, false);
                    }
                }
            }
        }
        lines
    }

    fn exact_over(&self, target: Target, positions: &[usize]) -> f64 {
        self.exact.get(&target).map_or(0.0, |exact| positions.iter().map(|i| exact[*i]).sum())
    }

    /// Mean bytes of `m` draws, those outside the top `k` as the run cuts them.
    fn bytes_of_draws(&self, positions: &[usize], k: usize, m: usize, cost: &Cost) -> f64 {
        let entries = self.entries[1].get(&k);
        let of = |i: &usize| {
            let k = entries.map_or(0, |entries| entries[*i] as usize);
            self.prefixes.bytes_at(*i, k, m as f64, cost)
        };
        positions.iter().map(of).sum::<f64>() / positions.len() as f64
    }
}

fn pairs<'a>(sizes: &'a [usize], draws: &'a [usize]) -> impl Iterator<Item = (usize, usize)> + 'a {
    sizes.iter().flat_map(move |k| draws.iter().map(move |m| (*k, *m)))
}

fn mean(of: &[f64], positions: &[usize]) -> f64 {
    positions.iter().map(|i| of[*i]).sum::<f64>() / positions.len() as f64
}

/// [`Moments`] summed over a group.
struct Sums {
    error: f64,
    mean: f64,
    along: f64,
    spread: f64,
}

impl Sums {
    fn of(moments: &Moments, positions: &[usize]) -> Self {
        let sum = |of: &[f64]| positions.iter().map(|i| of[*i]).sum();
        Self {
            error: sum(&moments.error),
            mean: sum(&moments.mean),
            along: sum(&moments.along),
            spread: sum(&moments.spread),
        }
    }

    /// With the group's mean advantage as a constant baseline: the coefficient is `-rho (A - c)`.
    fn with(&self, baseline: &Baseline, positions: &[usize]) -> Self {
        let c = mean(&baseline.advantage, positions);
        let change = |i: &usize| 2.0 * c * baseline.cross[*i] + c * c * baseline.unit[*i];
        Self { spread: self.spread + positions.iter().map(change).sum::<f64>(), ..*self }
    }
}
