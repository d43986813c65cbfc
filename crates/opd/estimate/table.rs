//! The lines of a study as text.

use super::{Format, Seen};
use learner::estimate::Line;

/// The header of the csv, which is fixed.
const COLUMNS: &str = "estimator,k,m,bytes_per_token,staleness,bias,variance,cosine";

/// As it was asked for.
pub(super) fn render(lines: &[Line], seen: &Seen<'_>) -> String {
    match seen.args.format {
        Format::Csv => csv(lines),
        Format::Table => table(lines, seen),
    }
}

fn csv(lines: &[Line]) -> String {
    let mut text = format!("{COLUMNS}\n");
    for line in lines {
        let Line { estimator, k, m, bytes_per_token, group, figures, .. } = line;
        let numbers = [figures.bias, figures.variance, figures.cosine].map(exact).join(",");
        text += &format!("{estimator},{k},{m},{},{group},{numbers}\n", exact(*bytes_per_token));
    }
    text
}

fn table(lines: &[Line], seen: &Seen<'_>) -> String {
    let mut text = format!("{}\n", seen.title());
    let mut group = None;
    for line in lines {
        let Line { estimator, k, m, bytes_per_token, figures, .. } = line;
        if group != Some(line.group) {
            group = Some(line.group);
            let positions = seen.staleness.iter().filter(|staleness| **staleness == line.group).count();
            text += &format!("\nstaleness {}, {positions} positions\n", line.group);
            text += &format!(
                "{:<32} {:>5} {:>5} {:>11} {:>9} {:>9} {:>7}\n",
                "estimator", "k", "m", "bytes/token", "bias", "variance", "cosine"
            );
        }
        let count = |n: usize| if n == 0 { "-".to_string() } else { n.to_string() };
        let mark = if line.sampled { "~" } else { "" };
        text += &format!(
            "{:<32} {:>5} {:>5} {bytes_per_token:>11.1} {:>9} {:>9} {:>7.4}\n",
            format!("{estimator}{mark}"),
            count(*k),
            count(*m),
            short(figures.bias),
            short(figures.variance),
            figures.cosine
        );
    }
    if lines.iter().any(|line| line.sampled) {
        text += "\n~ not linear in its draws: from draws by the run's seed, all others in closed form\n";
    }
    text
}

/// Six digits. What rounding leaves of a 0 is one.
pub(super) fn exact(number: f64) -> String {
    match number.abs() {
        size if size < 1e-7 => "0".into(),
        size if (1e-3..1e6).contains(&size) => format!("{number:.6}"),
        _ => format!("{number:.5e}"),
    }
}

/// Three digits.
pub(super) fn short(number: f64) -> String {
    match number.abs() {
        size if size < 1e-7 => "0".into(),
        size if !(1e-3..1e5).contains(&size) => format!("{number:.1e}"),
        size if size < 1.0 => format!("{number:.4}"),
        size if size < 100.0 => format!("{number:.2}"),
        _ => format!("{number:.0}"),
    }
}
