//! The learner's chunked head against what one would write with autograd: full logits, log_softmax, gather,
//! `sum().backward()`. Both compute the Monte-Carlo reverse KL of the same draws and its gradient in h and W.
//!
//!     cargo bench --profile dev --bench head
//!
//! Each measurement is a process of its own, so that the most memory it ever held is its own. Rounds go over all variants in
//! turn: what else the machine does meanwhile falls on all of them. `OPD_BENCH_VOCAB=151936` names other vocabularies.

use learner::{
    Columns, Positions, Proximal, chunked_head,
    estimator::{Advantage, Candidates, Correction, Estimator, ReverseKlMc, Support},
};
use std::{
    env, fs,
    process::{Command, Stdio},
    time::Instant,
};
use tch::{Device, Kind, Tensor};

type AnyError = Box<dyn std::error::Error>;

/// Positions (N), width of the hidden states (D), and draws a position (J), all distinct.
const N: i64 = 3456;
const D: i64 = 96;
const J: i64 = 16;
const VOCABULARIES: &str = "2048,4096,32768";
/// The default of `learn.head_chunk` is 128.
const VARIANTS: [&str; 4] = ["autograd", "32", "128", "512"];
const ROUNDS: usize = 5;
const RULE: ReverseKlMc =
    ReverseKlMc { draws: J as usize, advantage: Advantage::Current, correction: Correction::Importance {} };

fn main() -> Result<(), AnyError> {
    let set = |name| env::var(name).ok();
    if let (Some(variant), Some(what)) = (set("OPD_BENCH_VARIANT"), set("OPD_BENCH_WHAT")) {
        let vocab = set("OPD_BENCH_VOCAB").ok_or("OPD_BENCH_VOCAB is not set")?;
        return measure(&variant, vocab.parse()?, &what);
    }
    let vocabularies = env::var("OPD_BENCH_VOCAB").unwrap_or_else(|_| VOCABULARIES.into());
    println!("chunked head against autograd: N = {N}, D = {D}, J = {J}, float32, 1 thread, at most {ROUNDS} rounds\n");
    println!("                          time of one pass, ms           speed     extra memory, MiB    memory");
    println!(" vocabulary  variant       median     fastest      to autograd             most      of autograd");
    let mut csv = vec!["vocabulary,variant,median_ms,fastest_ms,extra_memory_mib,largest_gap".to_string()];
    for vocab in vocabularies.split(',') {
        let mut found: Vec<Vec<Measured>> = VARIANTS.iter().map(|_| Vec::new()).collect();
        // Autograd takes 8 s and 8 GiB at 151,936: once has to do.
        let rounds = if vocab.parse::<u32>()? > 100_000 { 1 } else { ROUNDS };
        for _ in 0..rounds {
            for (variant, found) in VARIANTS.iter().zip(&mut found) {
                found.push(child(variant, vocab)?);
            }
        }
        let median = |runs: &[Measured], of: fn(&Measured) -> f64| {
            let mut numbers: Vec<f64> = runs.iter().map(of).collect();
            numbers.sort_by(f64::total_cmp);
            numbers[numbers.len() / 2]
        };
        let (base_ms, base_mib) = (median(&found[0], |m| m.median_ms), median(&found[0], |m| m.extra_mib));
        for (variant, runs) in VARIANTS.iter().zip(&found) {
            let (ms, mib) = (median(runs, |m| m.median_ms), median(runs, |m| m.extra_mib));
            let fastest = runs.iter().map(|m| m.fastest_ms).fold(f64::INFINITY, f64::min);
            let gap = runs.iter().map(|m| m.gap).fold(0.0, f64::max);
            let name = if *variant == "autograd" { "autograd".into() } else { format!("chunk {variant}") };
            println!(
                "{vocab:>11}  {name:<11} {ms:>8.1}    {fastest:>8.1}     {:>8.2} x         {mib:>8.1}     {:>8.1} %",
                base_ms / ms,
                100.0 * mib / base_mib
            );
            csv.push(format!("{vocab},{name},{ms:.2},{fastest:.2},{mib:.1},{gap:.1e}"));
        }
        println!();
    }
    csv.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// What one process found.
struct Measured {
    median_ms: f64,
    fastest_ms: f64,
    /// The most resident memory beyond the inputs, MiB, gradients included.
    extra_mib: f64,
    /// Largest difference of a gradient's entry to that of autograd at a sample of positions, relative to the largest entry.
    gap: f64,
}

fn child(variant: &str, vocab: &str) -> Result<Measured, AnyError> {
    let run = |what: &str| {
        let mut command = Command::new(env::current_exe()?);
        command.env("OPD_BENCH_VARIANT", variant).env("OPD_BENCH_VOCAB", vocab).env("OPD_BENCH_WHAT", what);
        if what == "memory" {
            // Tensors that are freed go back to the system at once: a peak is what is held, not what was held before.
            command.env("MALLOC_MMAP_THRESHOLD_", "65536").env("MALLOC_TRIM_THRESHOLD_", "0");
        }
        let output = command.stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8(output.stdout)?;
        let numbers = text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        match numbers[..] {
            [a, b] if output.status.success() => Ok((a, b)),
            _ => Err(AnyError::from(format!("{what} of {variant} at {vocab}: {}, found `{text}`", output.status))),
        }
    };
    let ((median_ms, fastest_ms), (extra_mib, gap)) = (run("time")?, run("memory")?);
    Ok(Measured { median_ms, fastest_ms, extra_mib, gap })
}

/// A pass: gradients in h `[N, D]` and W `[V, D]` of the mean over positions.
fn pass(variant: &str, inputs: &Inputs) -> Result<(Tensor, Tensor), AnyError> {
    match variant.parse() {
        Ok(chunk) => chunked(inputs, chunk),
        Err(_) => Ok(autograd(inputs)),
    }
}

/// Prints the median and the fastest time, ms, or the extra memory, MiB, and the gap.
fn measure(variant: &str, vocab: i64, what: &str) -> Result<(), AnyError> {
    tch::set_num_threads(1);
    // What libtorch sets up once is nobody's cost.
    let _ = pass(variant, &Inputs::new(8, 64))?;
    let inputs = Inputs::new(N, vocab);
    if what == "time" {
        let mut times = Vec::new();
        for _ in 0..if vocab < 10_000 { 7 } else { 3 } {
            let start = Instant::now();
            let _ = pass(variant, &inputs)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        println!("{} {}", times[times.len() / 2], times[0]);
        return Ok(());
    }
    // 5: the peak starts again from what is resident now (proc(5)).
    fs::write("/proc/self/clear_refs", "5")?;
    let before = resident("VmRSS:")?;
    let _ = pass(variant, &inputs)?;
    let extra = resident("VmHWM:")? - before;

    // Fewer positions do for this; faster counts for nothing where it is not the same.
    let few = Inputs::new(256, vocab);
    let (found, expected) = (pass(variant, &few)?, autograd(&few));
    let gap = |a: &Tensor, b: &Tensor| ((a - b).abs().max() / b.abs().max()).double_value(&[]);
    let gap = gap(&found.0, &expected.0).max(gap(&found.1, &expected.1));
    if gap > 1e-3 {
        return Err(format!("chunk {variant}: gradients differ from autograd's by {gap}, expected at most 1e-3").into());
    }
    println!("{extra} {gap}");
    Ok(())
}

fn resident(field: &str) -> Result<f64, AnyError> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such line in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// Hidden states, a head, and draws with the log-probabilities that teacher and sampler gave them.
struct Inputs {
    hidden: Tensor,
    weight: Tensor,
    positions: Positions,
}

impl Inputs {
    fn new(n: i64, vocab: i64) -> Self {
        let _guard = tch::no_grad_guard();
        tch::manual_seed(1);
        let float = (Kind::Float, Device::Cpu);
        let hidden = Tensor::randn([n, D], float);
        let weight = Tensor::randn([vocab, D], float) * 0.3;
        // Draws that are distinct at each position: a random start, then strides that do not come around to it.
        let start = Tensor::randint(vocab, [n, 1], (Kind::Int64, Device::Cpu));
        let ids = (start + Tensor::arange(J, (Kind::Int64, Device::Cpu)) * (vocab / J - 1)).remainder(vocab);
        // The sampler is the student a few steps ago, the teacher somebody else.
        let at = |noise: f64| {
            let logits =
                hidden.unsqueeze(1).matmul(&weight.index_select(0, &ids.view([-1])).view([n, J, D]).transpose(1, 2));
            // Normal logits of variance s have logsumexp ln V + s / 2.
            let log_sum = (vocab as f64).ln() + 0.3 * 0.3 * D as f64 / 2.0;
            logits.squeeze_dim(1) - log_sum + Tensor::randn([n, J], float) * noise
        };
        let support = Columns {
            support: Support::Draws,
            mask: ids.ones_like().to_kind(Kind::Bool),
            in_head: ids.zeros_like().to_kind(Kind::Bool),
            draws: Tensor::full([n], J as f64, float),
            counts: ids.ones_like().to_kind(Kind::Float),
            teacher_logprobs: at(1.0),
            sampler_logprobs: at(0.1),
            teacher_tail: Tensor::full([n], f64::NAN, float),
            ids,
        };
        let temperature = Tensor::ones([n], float);
        let token_ids = support.ids.select(1, 0);
        Self {
            hidden,
            weight,
            positions: Positions {
                token_ids,
                temperature,
                support,
                draws: None,
                teacher_top_k: None,
                proximal: Proximal::Unknown,
            },
        }
    }
}

fn chunked(inputs: &Inputs, chunk: usize) -> Result<(Tensor, Tensor), AnyError> {
    let mut d_weight = inputs.weight.zeros_like();
    let scale = 1.0 / inputs.hidden.size()[0] as f64;
    let output = chunked_head(&inputs.hidden, &inputs.weight, &inputs.positions, &RULE, scale, chunk, &mut d_weight)?;
    match output.fault {
        Some((position, fault)) => Err(format!("position {position}: {fault}").into()),
        None => Ok((output.d_hidden, d_weight)),
    }
}

/// The rule's coefficients are constants: what is differentiated is their product with log p.
fn autograd(inputs: &Inputs) -> (Tensor, Tensor) {
    let (hidden, weight) =
        (inputs.hidden.detach().set_requires_grad(true), inputs.weight.detach().set_requires_grad(true));
    let Positions { temperature, support, .. } = &inputs.positions;
    let logits = (&hidden / temperature.unsqueeze(1)).matmul(&weight.tr());
    let log_p = logits.log_softmax(1, Kind::Float).gather(1, &support.ids, false);
    let ruling = RULE.rule(&Candidates {
        mask: support.mask.shallow_clone(),
        in_head: support.in_head.shallow_clone(),
        draws: support.draws.shallow_clone(),
        counts: support.counts.shallow_clone(),
        learner_logprobs: log_p.detach(),
        // RULE asks for no proximal pass.
        proximal_logprobs: log_p.full_like(f64::NAN),
        teacher_logprobs: support.teacher_logprobs.shallow_clone(),
        sampler_logprobs: support.sampler_logprobs.shallow_clone(),
        learner_tail: support.teacher_tail.shallow_clone(),
        teacher_tail: support.teacher_tail.shallow_clone(),
    });
    let loss = (ruling.coefficients * log_p).sum(Kind::Float) / hidden.size()[0] as f64;
    loss.backward();
    (hidden.grad(), weight.grad())
}
