//! `opd replay --evaluate`: what an estimator makes of recorded steps, without a step of its own.

use super::{
    Format, Order, ReplayArgs, open,
    parent::ParentRun,
    read,
    script::{Origin, Script},
};
use crate::{
    config::Pipeline,
    error::{CommandError, Result, off_thread},
    identity,
    learn::StepSettings,
    output::{say, show},
    policy::{PolicyLoader, Student},
    progress,
    teachers::{TEACHER, listed},
};
use learner::{Learner, StepReport, TrainRow};
use model::Transformer;
use record::{BatchRows, PolicyVersion, Ratio};
use std::collections::{BTreeMap, BTreeSet};
use store::{Scored, Snapshot};

/// Columns: what it is called here and in a step's metrics.
const COLUMNS: [(&str, &str); 5] = [
    ("loss", "loss"),
    ("reverse_kl", "reverse_kl"),
    ("forward_kl", "forward_kl"),
    ("ess", "is/ess"),
    ("grad_norm", "grad_norm"),
];

/// A step, its rows and what was found.
type Line = (u64, u64, BTreeMap<String, Ratio>);

/// Prints losses and metrics of the pipeline's estimator on recorded steps.
///
/// # Errors
/// As a replay finds; an order that is not that of the steps; steps that are not recorded, or before which no weights are kept.
pub(super) async fn run(args: &ReplayArgs, mut pipeline: Pipeline) -> Result<()> {
    let wanted = args.steps.as_deref().map(parse).transpose()?;
    if args.source.order == Order::Seeded {
        return Err(CommandError::new(
            "--evaluate is of recorded steps, with the weights from before each; --order is seeded",
        )
        .hint("leave --order out; --where leaves some rows of each step"));
    }
    let (parent, script) = open(&args.source, &mut pipeline, true).await?;
    let pipeline = &pipeline;
    // Which weights are kept is a question to the newest state, whatever the rows are seen at.
    let now = parent.store.snapshot(None).await?;
    let steps = choose(&script, &now, wanted, &args.source.from)?;
    let rows = steps.iter().map(|step| script.steps[*step as usize - 1].clone()).collect();
    let script = Script { steps: rows, ..script };
    parent.check_kept(script.names().into_iter())?;
    parent.check_codecs(script.names().into_iter(), &pipeline.learn.estimator)?;
    parent.check_objects(script.objects()).await?;

    let settings = StepSettings::of(pipeline);
    let loader = PolicyLoader::open(&parent.store, &now, &settings.device).await?;
    let origin = Origin::new(parent.store.clone(), script.batches.clone());
    let mut teacher = match settings.estimator.needs().teacher {
        true => Some(load_teacher(&parent, pipeline).await?),
        false => None,
    };
    let (mut student, line) = (None, progress::Line::new("evaluate"));
    let mut lines = Vec::new();
    for (step, replayed) in steps.iter().zip(&script.steps) {
        let version = PolicyVersion(step - 1);
        let loaded = loader.load(&parent.store, &now, version, student.take()).await?;
        let Some(Student { network, .. }) = loaded else {
            return Err(
                CommandError::new(format!("the weights of policy {version} were given up just now")).hint("ask again")
            );
        };
        let rows: Vec<BatchRows> = replayed.iter().map(|replayed| replayed.of.clone()).collect();
        let portions = read(&origin, rows.iter(), *step, settings.read).await?;
        let (settings, held) = (settings.clone(), teacher.take());
        let (report, network, held) = off_thread(move || evaluate(network, held, &settings, version, &portions))
            .await
            .map_err(|error| error.at(format!("step {step}")))?;
        (student, teacher) = (Some(Student { version, network }), held);
        lines.push((*step, report.rows.len() as u64, report.metrics));
        line.show(&format!("{} of {} steps", lines.len(), steps.len()));
    }
    line.clear();
    let estimator = pipeline.learn.estimator.estimator().name();
    show(&match args.format {
        Format::Table => table(&lines, estimator, &args.source.from),
        Format::Csv => csv(&lines),
    })
}

/// `17`, or `1..280`, both included.
fn parse(text: &str) -> Result<(u64, u64)> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|step| *step > 0);
    let range = match text.split_once("..") {
        Some((first, last)) => number(first).zip(number(last)),
        None => number(text).map(|step| (step, step)),
    };
    range.filter(|(first, last)| first <= last).ok_or_else(|| {
        CommandError::new(format!("--steps is `{text}`"))
            .hint("a step, 17, or the first and the last of several, 1..280")
    })
}

/// The steps that can be evaluated of those that are wanted.
fn choose(script: &Script, now: &Snapshot, wanted: Option<(u64, u64)>, url: &str) -> Result<Vec<u64>> {
    let last = script.steps.len() as u64;
    let (first, end) = wanted.unwrap_or((1, last));
    if first > last {
        return Err(CommandError::new(format!("--steps begins with {first}: `{url}` has rows for {last} steps")));
    }
    let (left, empty): (Vec<u64>, Vec<u64>) =
        (first..=end.min(last)).partition(|step| !script.steps[*step as usize - 1].is_empty());
    if left.is_empty() {
        let what = format!("--where leaves no row of the steps {first} to {} of `{url}`", end.min(last));
        return Err(CommandError::new(what).hint("choose more, or other steps"));
    }
    if !empty.is_empty() {
        say(&format!("left out: {} steps of which --where leaves no row", empty.len()));
    }
    let (kept, gone): (Vec<u64>, Vec<u64>) =
        left.into_iter().partition(|step| now.policies.contains_key(&PolicyVersion(step - 1)));
    let before: Vec<String> =
        now.policies.keys().filter(|version| version.0 < last).map(|version| (version.0 + 1).to_string()).collect();
    let known = listed(before.iter().map(String::as_str));
    if kept.is_empty() {
        let what = format!("`{url}` keeps no weights from before the steps {first} to {}", end.min(last));
        return Err(CommandError::new(what)
            .hint(format!("weights are kept from before {known}; learn.keep_policies says how many")));
    }
    if !gone.is_empty() && wanted.is_some() {
        say(&format!("left out: {} steps before which no weights are kept; they are kept before {known}", gone.len()));
    }
    Ok(kept)
}

async fn load_teacher(parent: &ParentRun, pipeline: &Pipeline) -> Result<Transformer> {
    let (run, pipeline) = (parent.run.clone(), pipeline.clone());
    off_thread(move || {
        let ids: BTreeSet<String> = pipeline.all_teachers().into_keys().map(str::to_string).collect();
        identity::check_teachers(&run, &pipeline, &ids)?;
        let id = ids.first().map_or(TEACHER, String::as_str);
        pipeline.load_teacher(id, model::device(&pipeline.learn.device)?)
    })
    .await
}

/// What the estimator makes of the rows under a student, which comes back with the teacher.
fn evaluate(
    student: Transformer,
    teacher: Option<Transformer>,
    settings: &StepSettings,
    version: PolicyVersion,
    portions: &[Scored],
) -> Result<(StepReport, Transformer, Option<Transformer>)> {
    model::set_threads(settings.threads as usize);
    let mut learner = Learner::new(student, settings.optimizer, settings.cut)?;
    learner.set_teacher(teacher)?;
    let mut rows = Vec::new();
    for Scored { rows: selected, data, .. } in portions {
        let staleness = version.checked_staleness_of(data.rollouts().policy_version());
        rows.extend(selected.iter().map(|row| TrainRow::scored(&data.row(row as usize), staleness)));
    }
    let report = learner.evaluate(&settings.estimator, &rows)?;
    let teacher = learner.take_teacher();
    Ok((report, learner.into_student(), teacher))
}

/// The value of a metric; none where nothing was counted.
fn value(metrics: &BTreeMap<String, Ratio>, name: &str) -> Option<f64> {
    metrics.get(name).filter(|(_, count)| *count != 0.0).map(|(sum, count)| sum / count)
}

fn table(lines: &[Line], estimator: &str, url: &str) -> String {
    let mut text = format!("{estimator} on {url}\n{:>6} {:>7} {:>6}", "step", "version", "rows");
    COLUMNS.iter().for_each(|(name, _)| text += &format!(" {name:>12}"));
    text += "\n";
    for (step, rows, metrics) in lines {
        text += &format!("{step:>6} {:>7} {rows:>6}", step - 1);
        for (_, name) in COLUMNS {
            let number = value(metrics, name).map_or("-".into(), |number| format!("{number:.6}"));
            text += &format!(" {number:>12}");
        }
        text += "\n";
    }
    text
}

fn csv(lines: &[Line]) -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let mut text = format!("step,policy_version,rows,{}\n", names.join(","));
    for (step, rows, metrics) in lines {
        let number = |name: &str| value(metrics, name).map_or(String::new(), |number| number.to_string());
        let numbers: Vec<String> = COLUMNS.iter().map(|(_, name)| number(name)).collect();
        text += &format!("{step},{},{rows},{}\n", step - 1, numbers.join(","));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_one_or_a_range() {
        assert_eq!(parse("17").unwrap(), (17, 17));
        assert_eq!(parse("1..280").unwrap(), (1, 280));
        for bad in ["", "0", "0..3", "3..1", "1..", "..3", "a", "1-3"] {
            let said = parse(bad).unwrap_err().to_string();
            assert!(said.contains(&format!("--steps is `{bad}`")) && said.contains("hint:"), "{said}");
        }
    }
}
