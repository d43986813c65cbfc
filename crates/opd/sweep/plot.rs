//! A sweep's results as an SVG: one line an arm, a point a value of the grid, with what the seeds differ by.

use super::{
    grid::{Member, Sweep, short},
    results::Measured,
};
use crate::{
    error::{CommandError, Result},
    svg::{apart, escaped, look},
};
use std::{collections::BTreeMap, path::Path};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
/// Where the axes lie: left, right, top, bottom.
const FRAME: [f64; 4] = [70.0, 640.0, 60.0, 450.0];

/// What is drawn: places along, named, and for each line the values at each place, one a seed.
#[derive(Debug, PartialEq)]
struct Chart {
    title: String,
    along: String,
    upwards: String,
    places: Vec<String>,
    /// The values are decimal logarithms.
    log: bool,
    lines: BTreeMap<String, Vec<Vec<f64>>>,
}

/// Writes the plot.
///
/// # Errors
/// A column that the results have not, one that no run has a value of, or a file that cannot be written.
pub fn write(place: &Path, sweep: &Sweep, done: &[(&Member, Measured)]) -> Result<()> {
    let text = draw(&chart(sweep, done)?);
    std::fs::write(place, text)
        .map_err(|error| CommandError::new(format!("`{}` cannot be written: {error}", place.display())))
}

/// That what the sweep wants drawn can be, found out before any run.
///
/// # Errors
/// A column that the results have not, or a key that the grid has not.
pub fn check(sweep: &Sweep) -> Result<()> {
    let fault = |key: &str, value: &str, known: Vec<String>| {
        CommandError::new(format!("sweep `{}`: `plot.{key}` is `{value}`", sweep.name))
            .hint(format!("it may be {}", if known.is_empty() { "left out".into() } else { known.join(", ") }))
    };
    if !Measured::columns().contains(&sweep.plot.y.as_str()) {
        return Err(fault("y", &sweep.plot.y, Measured::columns().iter().map(ToString::to_string).collect()));
    }
    match &sweep.plot.x {
        Some(key) if !sweep.grid.contains_key(key) => Err(fault("x", key, sweep.grid.keys().cloned().collect())),
        _ => Ok(()),
    }
}

fn chart(sweep: &Sweep, done: &[(&Member, Measured)]) -> Result<Chart> {
    check(sweep)?;
    let key = sweep.plot.x.as_ref().or_else(|| sweep.grid.keys().next());
    let axis = key.and_then(|key| sweep.grid.keys().position(|known| known == key));
    // Without a grid the arms themselves lie along.
    let place = |member: &Member| axis.map_or_else(|| member.arm.clone(), |axis| short(&member.point[axis]));
    let line = |member: &Member| {
        let others = member.point.iter().enumerate().filter(|(i, _)| axis.is_some() && Some(*i) != axis);
        let names = sweep.point_columns();
        let words = others.map(|(i, value)| format!("{} {}", names[i], short(value)));
        let arm = if axis.is_some() { member.arm.clone() } else { String::new() };
        [arm].into_iter().chain(words).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ")
    };
    let mut places: Vec<String> = match key {
        Some(key) => sweep.grid[key].iter().map(short).collect(),
        None => sweep.arms.keys().cloned().collect(),
    };
    if places.is_empty() {
        places.push(String::new());
    }
    let mut lines: BTreeMap<String, Vec<Vec<f64>>> = BTreeMap::new();
    for (member, measured) in done {
        let (Some(value), here) = (measured.value(&sweep.plot.y), place(member)) else { continue };
        let Some(at) = places.iter().position(|name| *name == here) else { continue };
        if sweep.plot.log && value <= 0.0 {
            let what = format!("run `{}` has `{}` {value}, which has no logarithm", member.name, sweep.plot.y);
            return Err(CommandError::new(what).hint(format!("sweep `{}`: leave `plot.log` out", sweep.name)));
        }
        let value = if sweep.plot.log { value.log10() } else { value };
        lines.entry(line(member)).or_insert_with(|| vec![Vec::new(); places.len()])[at].push(value);
    }
    if lines.is_empty() {
        let what = format!("sweep `{}`: no run has `{}`, so there is nothing to draw", sweep.name, sweep.plot.y);
        return Err(CommandError::new(what).hint("a run without answers to compare with has no accuracy"));
    }
    let mean = if sweep.plot.log { "geometric mean" } else { "mean" };
    let upwards = format!("{}, {mean} and standard deviation over seeds", sweep.plot.y.replace('_', " "));
    Ok(Chart {
        title: format!("{}: {} runs", sweep.name, done.len()),
        along: key.cloned().unwrap_or_default(),
        upwards,
        places,
        log: sweep.plot.log,
        lines,
    })
}

/// Mean, and the standard deviation where there are two or more.
fn spread(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let sum: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (sum / (count - 1.0)).sqrt()))
}

/// Values nearer to each other than this share of them are drawn as one.
const ALIKE: f64 = 1e-9;

/// Round numbers that cover what is drawn, two or more.
fn ticks(least: f64, most: f64) -> Vec<f64> {
    let size = least.abs().max(most.abs());
    let (least, most) = if most - least > ALIKE * size {
        (least, most)
    } else if size > 0.0 {
        (least - 0.1 * size, most + 0.1 * size)
    } else {
        (0.0, 1.0)
    };
    let raw = (most - least) / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|lead| lead * power).into_iter().find(|step| *step >= raw).unwrap_or(raw);
    let (from, to) = ((least / step).floor() as i64, (most / step).ceil() as i64);
    (from..=to).map(|i| i as f64 * step).collect()
}

/// Logarithms of round numbers that cover these.
fn log_ticks(least: f64, most: f64) -> Vec<f64> {
    let decades = least.floor() as i32..=most.ceil() as i32;
    let all: Vec<f64> =
        decades.flat_map(|power| [1.0, 2.0, 5.0].map(|lead: f64| lead.log10() + f64::from(power))).collect();
    let from = all.iter().rposition(|tick| *tick <= least).unwrap_or(0);
    let to = all.iter().position(|tick| *tick >= most).unwrap_or(all.len() - 1);
    all[from..=to.max(from)].to_vec()
}

fn draw(chart: &Chart) -> String {
    let [left, right, top, bottom] = FRAME;
    let values = || chart.lines.values().flatten().flatten().copied();
    let reach = chart.lines.values().flatten().filter(|values| !values.is_empty()).map(|values| spread(values));
    let (mut least, mut most) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    for (mean, deviation) in reach {
        least = least.min(mean - deviation.unwrap_or(0.0));
        most = most.max(mean + deviation.unwrap_or(0.0));
    }
    // A quantity that is never negative is not shown below 0.
    if !chart.log && values().all(|value| value >= 0.0) {
        least = least.max(0.0);
    }
    let ticks = if chart.log { log_ticks(least, most) } else { ticks(least, most) };
    // Of a logarithm there may be one tick alone: a decade lies above it.
    let (low, high) = (ticks[0], if ticks.len() > 1 { ticks[ticks.len() - 1] } else { ticks[0] + 1.0 });
    let y = |value: f64| bottom - (value - low) / (high - low) * (bottom - top);
    let count = chart.places.len() as f64;
    let x = |place: usize| left + (place as f64 + 0.5) / count * (right - left);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"28\" font-size=\"16\">{}</text>\n<text x=\"{left}\" y=\"46\" fill=\"#555\">{}; each dot is a run</text>\n",
        escaped(&chart.title),
        escaped(&chart.upwards)
    );
    let digits = ((-(high - low).log10()).ceil() + 1.0).clamp(0.0, 6.0) as usize;
    for tick in &ticks {
        let at = y(*tick);
        let number = if chart.log { format!("{}", 10f64.powf(*tick) as f32) } else { format!("{tick:.digits$}") };
        svg += &format!(
            "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#e4e4e4\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{number}</text>\n",
            left - 8.0,
            at + 4.0
        );
    }
    for (i, name) in chart.places.iter().enumerate() {
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
            x(i),
            bottom + 18.0,
            escaped(name)
        );
    }
    svg += &format!(
        "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#555\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
        (left + right) / 2.0,
        bottom + 42.0,
        escaped(&chart.along)
    );
    let end = |places: &Vec<Vec<f64>>| {
        places.iter().rev().find(|values| !values.is_empty()).map(|values| y(spread(values).0))
    };
    let ends: Vec<f64> = chart.lines.values().filter_map(end).collect();
    for (i, ((name, places), label)) in chart.lines.iter().zip(apart(&ends, top, bottom)).enumerate() {
        svg += &line(name, places, label, i, chart.lines.len(), &x, &y);
    }
    svg + "</svg>\n"
}

/// One line with its points, beside those of the others, and its name at the right.
fn line(
    name: &str,
    places: &[Vec<f64>],
    label: f64,
    i: usize,
    of: usize,
    x: &impl Fn(usize) -> f64,
    y: &impl Fn(f64) -> f64,
) -> String {
    let right = FRAME[1];
    let (color, dash) = look(i, of);
    // So that the bars of two lines at one place can be told apart.
    let aside = 7.0 * (i as f64 - (of as f64 - 1.0) / 2.0);
    let points: Vec<(f64, &Vec<f64>)> = places
        .iter()
        .enumerate()
        .filter(|(_, values)| !values.is_empty())
        .map(|(p, values)| (x(p) + aside, values))
        .collect();
    let path: Vec<String> = points.iter().map(|(x, values)| format!("{x:.1},{:.1}", y(spread(values).0))).collect();
    let mut svg = format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"{dash}/>\n",
        path.join(" ")
    );
    for (x, values) in &points {
        let (mean, deviation) = spread(values);
        for value in values.iter() {
            svg += &format!(
                "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"2\" fill=\"{color}\" fill-opacity=\"0.45\"/>",
                y(*value)
            );
        }
        svg += &format!("<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{color}\"/>", y(mean));
        if let Some(deviation) = deviation {
            let (low, high) = (y(mean - deviation).min(FRAME[3]), y(mean + deviation));
            svg += &format!(
                "<path d=\"M{x:.1} {low:.1}V{high:.1}M{:.1} {low:.1}h8M{:.1} {high:.1}h8\" stroke=\"{color}\" fill=\"none\"/>",
                x - 4.0,
                x - 4.0
            );
        }
        svg += "\n";
    }
    if let (Some((x, values)), false) = (points.last(), name.is_empty()) {
        svg += &format!(
            "<path d=\"M{:.1} {:.1}L{} {label:.1}\" stroke=\"{color}\" stroke-width=\"0.7\" stroke-dasharray=\"1 2\" fill=\"none\"/>\
             <text x=\"{}\" y=\"{:.1}\" fill=\"{color}\">{}</text>\n",
            x + 5.0,
            y(spread(values).0),
            right + 10.0,
            right + 14.0,
            label + 4.0,
            escaped(name)
        );
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mean_and_deviation_are_over_seeds() {
        assert_eq!(spread(&[1.0, 3.0]), (2.0, Some(2f64.sqrt())));
        assert_eq!(spread(&[5.0]), (5.0, None));
    }

    #[test]
    fn ticks_are_round_and_cover_everything() {
        assert_eq!(ticks(0.0, 1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        for (least, most) in
            [(0.123, 0.131), (-3.0, 900.0), (5.0, 5.0), (0.0, 0.0), (-2e7, -2e7), (1e30, 1e30), (1e-30, 1e-30)]
        {
            let ticks = ticks(least, most);
            assert!(ticks[0] <= least && ticks[ticks.len() - 1] >= most && ticks.len() < 9, "{ticks:?}");
        }
    }

    proptest! {
        #[test]
        fn ticks_cover_any_values_in_order(a in any_value(), b in prop_oneof![any_value(), Just(0.0)], alike in 0u8..3) {
            // The same, almost the same, or another.
            let b = [a, a * (1.0 + f64::EPSILON), b][usize::from(alike)];
            let (least, most) = (a.min(b), a.max(b));
            let (ticks, near) = (ticks(least, most), 1e-6 * (most - least).abs() + 1e-9 * least.abs().max(most.abs()));
            prop_assert!((2..9).contains(&ticks.len()) && ticks.windows(2).all(|pair| pair[0] < pair[1]), "{ticks:?}");
            prop_assert!(ticks[0] <= least + near && ticks[ticks.len() - 1] >= most - near, "{least} {most} {ticks:?}");
        }
    }

    /// Of any size.
    fn any_value() -> impl Strategy<Value = f64> {
        (-9.99f64..9.99, -30i32..30).prop_map(|(lead, power)| lead * 10f64.powi(power))
    }

    #[test]
    fn large_values_that_are_all_the_same_are_drawn() {
        for (value, log) in [(17_500_000.0f64, false), (0.0, false), (17_500_000.0, true), (1.0, true)] {
            let value = if log { value.log10() } else { value };
            let lines = BTreeMap::from([("a".to_string(), vec![vec![value, value]]), ("b".into(), vec![vec![value]])]);
            let (title, along, upwards) = (String::new(), String::new(), String::new());
            let places = vec!["0".to_string()];
            let svg = draw(&Chart { title, along, upwards, places, log, lines });
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{value}: {svg}");
        }
    }

    #[test]
    fn logarithmic_ticks_are_1_2_and_5_and_cover_everything() {
        for (least, most) in [(0.48f64, 10.8f64), (0.5, 0.5), (1e-3, 2e5)] {
            let ticks = log_ticks(least.log10(), most.log10());
            let (first, last) = (10f64.powf(ticks[0]), 10f64.powf(ticks[ticks.len() - 1]));
            assert!(first <= least * 1.000_001 && last >= most * 0.999_999, "{first} {last}");
            assert!(first > least / 2.6 && last < most * 2.6, "{first} {last}");
        }
    }

    #[test]
    fn a_line_is_drawn_through_the_means_and_names_are_escaped() {
        let lines = BTreeMap::from([("a<b".to_string(), vec![vec![0.2, 0.4], vec![], vec![0.5]])]);
        let places = ["0", "16", "64"].map(String::from).to_vec();
        let (along, upwards) = ("rollout.lag".into(), "accuracy".into());
        let chart = Chart { title: "t".into(), along, upwards, places, log: false, lines };
        let svg = draw(&chart);
        assert!(svg.contains("a&lt;b") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("r=\"3.5\"").count(), 2, "a mean at each place with a run");
        assert_eq!(svg.matches("h8").count(), 2, "one place has two seeds");
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
