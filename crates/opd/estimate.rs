//! `opd estimate`: what each estimator's gradient is worth on a store's rollouts, with the models at hand.

mod budget;
mod models;
mod parameters;
mod plot;
mod rows;
mod table;

use crate::{
    error::{CommandError, Result, off_thread},
    export_policy,
    output::{say, show},
    policy::{PolicyLoader, Student},
    progress, svg,
};
use clap::{Args, ValueEnum};
use learner::estimate::{Budgets, Chosen, Cost, Lists, Networks, Study, over_positions};
use model::{Transformer, chance};
use record::PolicyVersion;
use rows::{Row, Wanted};
use std::{path::PathBuf, sync::Arc};
use store::{Snapshot, Store, StoreOptions};

/// What is asked.
#[derive(Clone, Debug, Args)]
pub struct EstimateArgs {
    /// The store: a directory, file:///..., or s3://bucket/prefix.
    store: String,
    /// The policy that would learn: the optimizer steps that made it, or `latest`.
    #[arg(long, value_name = "VERSION", default_value = "latest")]
    student: String,
    /// Another teacher than the run's own: a Hugging Face directory.
    #[arg(long, value_name = "DIR")]
    teacher: Option<PathBuf>,
    /// Only rollouts for which this holds: "policy_version > 20 and source = 'gsm8k'".
    #[arg(long = "where", value_name = "SQL")]
    condition: Option<String>,
    /// How many positions to look at, chosen by the run's seed.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    positions: u64,
    /// Top-k up to this many ids, instead of up to what the store keeps.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=4096))]
    top_k: Option<u64>,
    /// Draws up to this many, instead of up to what the store keeps.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..=1024))]
    draws: Option<u64>,
    /// What a cached entry costs.
    #[arg(long, value_enum, default_value_t = Bytes::Packed)]
    bytes: Bytes,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Draw error against bytes per token into this file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Find the cache of least variance for `reverse_kl_hybrid` under this many bytes a token, instead of listing estimators.
    #[arg(long, value_name = "BYTES", value_parser = positive, conflicts_with_all = ["plot", "top_k", "draws"])]
    budget: Option<f64>,
    /// The gradient in the parameters, from the draws and lists that are stored, instead of that in the logits over all draws.
    #[arg(long, conflicts_with_all = ["plot", "top_k", "draws", "bytes", "budget"])]
    parameters: bool,
}

/// What a cached entry costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bytes {
    /// Draws as (id, count), lists in rank order, ids by frequency.
    Packed,
    /// int32 and float32, each draw by itself.
    Raw,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// Comma-separated, with a header line.
    Csv,
}

impl EstimateArgs {
    fn cost(&self) -> Cost {
        match self.bytes {
            Bytes::Packed => Cost::PACKED,
            Bytes::Raw => Cost::RAW,
        }
    }
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("expected a number of bytes above 0".into()),
    }
}

/// Prints bias, variance and cosine of every estimator at every budget.
///
/// # Errors
/// No run, no such version, weights that are not kept, another vocabulary, a condition that cannot be asked or selects nothing.
pub async fn run(args: EstimateArgs) -> Result<()> {
    let wanted = export_policy::parse(&args.student).map_err(|error| error.at("--student"))?;
    if args.budget.is_some() && args.format == Format::Csv {
        return Err(CommandError::new("--budget with --format csv: it prints lines for a pipeline")
            .hint("leave one of them away"));
    }
    let plot = args.plot.as_deref().map(svg::check_place).transpose()?;
    let store = Store::open(&args.store, StoreOptions::default()).await?;
    let now = store.follow().await?.snapshot().clone();
    let version = export_policy::find(&store, &now, wanted).await?.version;
    let loader = PolicyLoader::open(&store, &now, "cpu").await?;
    let teachers = models::Teachers::new(&now, args.teacher.as_deref(), loader.tokenizer())?;
    let wanted =
        Wanted { condition: args.condition.as_deref(), count: args.positions as usize, whole: args.parameters };
    let rows = rows::choose(&store, &now, version, wanted).await?;

    let mut work = Work { store, now, version, loader, teachers };
    if args.parameters {
        let (lines, staleness) = work.in_parameters(rows).await?;
        let seen = Seen { args: &args, run: &work.now.run.pipeline, version, staleness: &staleness };
        return show(&parameters::render(&lines, &seen));
    }
    work.teachers.check(&rows).await?;
    let (study, staleness) = work.look(study(&work.now, &args), rows).await?;
    let seen = Seen { args: &args, run: &work.now.run.pipeline, version, staleness: &staleness };
    let text = match args.budget {
        Some(budget) => budget::report(&study, &seen, budget)?,
        None => table::render(&study.lines(&staleness, &args.cost()), &seen),
    };
    show(&text)?;
    if let Some(place) = plot {
        plot::write(&place, &study.lines(&staleness, &args.cost()), &seen)?;
        say(&format!("wrote {}", place.display()));
    }
    Ok(())
}

/// What was looked at, for headings.
struct Seen<'a> {
    args: &'a EstimateArgs,
    /// The pipeline's name.
    run: &'a str,
    /// The student's.
    version: PolicyVersion,
    /// Of each position.
    staleness: &'a [u64],
}

impl Seen<'_> {
    /// The pipeline and where its store is.
    fn store(&self) -> String {
        format!("{} ({})", self.run, self.args.store)
    }

    /// `smollm2 (runs/smollm2): student 30, 2000 positions of staleness 3 to 30`.
    fn title(&self) -> String {
        let (least, most) = (self.staleness.iter().min(), self.staleness.iter().max());
        let span = match (least, most) {
            (Some(least), Some(most)) if least != most => format!("{least} to {most}"),
            (Some(least), _) => least.to_string(),
            _ => "none".into(),
        };
        format!("{}: student {}, {} positions of staleness {span}", self.store(), self.version, self.staleness.len())
    }
}

struct Work {
    store: Store,
    now: Snapshot,
    version: PolicyVersion,
    loader: PolicyLoader,
    teachers: models::Teachers,
}

impl Work {
    /// Looks at all rows; the staleness of each position comes with it.
    async fn look(&mut self, mut study: Study, mut rows: Vec<Row>) -> Result<(Study, Vec<u64>)> {
        rows.sort_by(|a, b| (&a.teacher, a.version, a.seed).cmp(&(&b.teacher, b.version, b.seed)));
        let of = |row: &Row| std::iter::repeat_n(self.version.staleness_of(row.version), row.positions.len());
        let staleness = rows.iter().flat_map(of).collect();
        let rows: Vec<Arc<Row>> = rows.into_iter().map(Arc::new).collect();
        if study.asks_twice() {
            study = self.go_through(study, &rows, Pass::Prepare).await?;
        }
        Ok((self.go_through(study, &rows, Pass::Add).await?, staleness))
    }

    /// Goes through all rows once. Networks travel to the working thread and back.
    async fn go_through(&mut self, mut study: Study, rows: &[Arc<Row>], pass: Pass) -> Result<Study> {
        let mut student = self.load(self.version, None).await?.network;
        let mut sampler: Option<Student> = None;
        let line = progress::Line::new("estimate");
        let (total, seed) = (rows.iter().map(|row| row.positions.len()).sum::<usize>(), self.now.run.seed);
        let mut teacher: Option<(String, Transformer)> = None;
        let mut seen = 0;
        for row in rows.iter().cloned() {
            if teacher.as_ref().is_none_or(|(id, _)| *id != row.teacher) {
                teacher = Some((row.teacher.clone(), self.teachers.load(&row.teacher).await?));
            }
            if row.version != self.version && sampler.as_ref().is_none_or(|held| held.version != row.version) {
                sampler = Some(self.load(row.version, sampler.take()).await?);
            }
            seen += row.positions.len();
            let (stale, staleness) = (row.version != self.version, self.version.staleness_of(row.version));
            let (held, taken) = (teacher.take(), sampler.take());
            (study, student, teacher, sampler) = off_thread(move || {
                if let Some((_, teacher)) = &held {
                    let sampler = taken.as_ref().filter(|_| stale).map(|held| &held.network);
                    look(&mut study, Networks { student: &student, teacher, sampler }, &row, staleness, seed, pass)?;
                }
                Ok((study, student, held, taken))
            })
            .await?;
            line.show(&match pass {
                Pass::Prepare => format!("margins of {seen} of {total} positions"),
                Pass::Add => format!("{seen} of {total} positions"),
            });
        }
        line.clear();
        Ok(study)
    }

    async fn load(&self, version: PolicyVersion, old: Option<Student>) -> Result<Student> {
        let loaded = self.loader.load(&self.store, &self.now, version, old).await?;
        loaded.ok_or_else(|| {
            CommandError::new(format!("the weights of policy {version} are gone"))
                .hint("the run retired it just now: ask again")
        })
    }
}

/// What is done with a row's positions.
#[derive(Clone, Copy)]
enum Pass {
    /// What a group gives as a whole is taken from them.
    Prepare,
    /// They are added.
    Add,
}

/// Looks at a row's positions.
fn look(study: &mut Study, networks: Networks<'_>, row: &Row, staleness: u64, seed: u64, pass: Pass) -> Result<()> {
    let chosen = Chosen {
        prompt_ids: &row.prompt_ids,
        response_ids: &row.response_ids,
        positions: &row.positions,
        temperature: row.temperature,
    };
    let seed = chance::row_seed(seed, row.seed, 0, row.version.0);
    over_positions(networks, &chosen, |first, of| match pass {
        Pass::Prepare => study.prepare(of, staleness),
        Pass::Add => {
            study.add(of, staleness, |i, draw| chance::uniform(seed, row.positions[first + i] as u64, draw as u64));
        }
    })
    .map_err(|error| CommandError::from(error).at(format!("rollout `{}`", row.rollout_id)))
}

/// What is to be found out: at powers of two up to what the store keeps, or to what is asked for, cut as the run cuts its lists;
/// or just what a budget is compared with.
fn study(now: &Snapshot, args: &EstimateArgs) -> Study {
    let up_to = |most: usize| -> Vec<usize> {
        let powers = std::iter::successors(Some(1), |power| Some(power * 2)).take_while(|power| *power < most);
        powers.chain((most > 0).then_some(most)).collect()
    };
    if args.budget.is_some() {
        let sizes = |sizes: &[usize]| Lists { sizes: sizes.to_vec(), mass: 1.0, floor: 0.0 };
        let budgets = Budgets {
            draws: vec![budget::RIVAL],
            teacher_top_k: sizes(&[]),
            sampler_top_k: sizes(&[budget::RIVAL]),
            head: budget::MOST_HEAD,
        };
        return Study::of(budgets, |name| budget::RIVALS.contains(&name));
    }
    let kept = models::Kept::of(now);
    let lists = |cut: models::Cut| Lists {
        sizes: up_to(args.top_k.map_or(cut.most, |k| k as usize)),
        mass: cut.mass,
        floor: cut.floor,
    };
    Study::new(Budgets {
        draws: up_to(args.draws.map_or(kept.draws, |m| m as usize)),
        teacher_top_k: lists(kept.teacher_top_k),
        sampler_top_k: lists(kept.sampler_top_k),
        head: 0,
    })
}
