//! Error against bytes per token as an SVG, both axes by powers, each line named at its end.

use super::Seen;
use crate::{
    error::{CommandError, Result},
    svg::{apart, escaped, look},
};
use learner::estimate::Line;
use std::{collections::BTreeMap, path::Path};

/// Writes the plot.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(place: &Path, lines: &[Line], seen: &Seen<'_>) -> Result<()> {
    // One staleness: at another all lines lie elsewhere.
    let freshest = lines.iter().map(|line| line.group).min().unwrap_or(0);
    let lines: Vec<&Line> = lines.iter().filter(|line| line.group == freshest).collect();
    let positions = seen.staleness.iter().filter(|staleness| **staleness == freshest).count();
    let title = format!("{}: student {}, {positions} positions of staleness {freshest}", seen.store(), seen.version);
    std::fs::write(place, draw(&curves(&lines), &title))
        .map_err(|error| CommandError::new(format!("`{}` cannot be written: {error}", place.display())))
}

/// Points (bytes a token, error) by estimator, in order of bytes; of several at as many bytes or more, what is no better is left
/// out where k and m are chosen freely.
fn curves<'a>(lines: &[&'a Line]) -> BTreeMap<&'a str, Vec<(f64, f64)>> {
    let mut curves: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for line in lines {
        curves.entry(line.estimator).or_default().push((line.bytes_per_token, line.figures.error()));
    }
    for (name, points) in &mut curves {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if name.contains("hybrid") {
            let mut least = f64::INFINITY;
            points.retain(|(_, error)| {
                *error < least && {
                    least = *error;
                    true
                }
            });
        }
    }
    curves
}

const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 720.0;
/// Where the axes lie: left, right, top, bottom.
const FRAME: [f64; 4] = [80.0, 760.0, 60.0, 650.0];

/// An axis by powers of ten.
struct Axis {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min).log10();
        let most = values.fold(0.0, f64::max).log10();
        let margin = 0.04 * (most - least).max(0.1);
        Self { least: least - margin, most: most + margin, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.least) / (self.most - self.least) * (self.to - self.from)
    }

    /// 1, 2 and 5 of each power, within the axis.
    fn ticks(&self) -> Vec<f64> {
        let powers = self.least.floor() as i32..=self.most.ceil() as i32;
        let all = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|lead| lead * 10f64.powi(power)));
        all.filter(|tick| (self.least..=self.most).contains(&tick.log10())).collect()
    }
}

fn draw(curves: &BTreeMap<&str, Vec<(f64, f64)>>, title: &str) -> String {
    let [left, right, top, bottom] = FRAME;
    // An error of 0 (a support that is the vocabulary) has no logarithm: it is drawn at the lower edge.
    let shown = |error: f64| error.max(1e-6);
    let points = || curves.values().flatten();
    let x = Axis::over(points().map(|point| point.0), left, right);
    let y = Axis::over(points().map(|point| shown(point.1)), bottom, top);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"28\" font-size=\"16\">{}</text>\n\
         <text x=\"{left}\" y=\"46\" fill=\"#555\">error of the gradient in logit space against bytes cached a token, each line an estimator at several k and m</text>\n",
        escaped(title)
    );
    for tick in x.ticks() {
        let at = x.at(tick);
        svg += &format!(
            "<path d=\"M{at:.1} {top}V{bottom}\" stroke=\"#e4e4e4\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>\n",
            bottom + 18.0
        );
    }
    for tick in y.ticks() {
        let at = y.at(tick);
        svg += &format!(
            "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#e4e4e4\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>\n",
            left - 8.0,
            at + 4.0
        );
    }
    svg += &format!(
        "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#555\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">bytes per token</text>\n\
         <text transform=\"translate(22 {}) rotate(-90)\" text-anchor=\"middle\">relative error, sqrt(bias² + variance)</text>\n",
        (left + right) / 2.0,
        bottom + 42.0,
        (top + bottom) / 2.0
    );
    let ends: Vec<f64> = curves.values().filter_map(|points| points.last()).map(|point| y.at(shown(point.1))).collect();
    for (i, ((name, points), label)) in curves.iter().zip(apart(&ends, top, bottom)).enumerate() {
        let (color, dash) = look(i, curves.len());
        let place = |point: &(f64, f64)| format!("{:.1},{:.1}", x.at(point.0), y.at(shown(point.1)));
        let places: Vec<String> = points.iter().map(place).collect();
        let Some(end) = points.last() else { continue };
        let (end_x, end_y) = (x.at(end.0), y.at(shown(end.1)));
        svg += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"{dash}/>\n",
            places.join(" ")
        );
        for point in points {
            svg += &format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"{color}\"/>",
                x.at(point.0),
                y.at(shown(point.1))
            );
        }
        svg += &format!(
            "\n<path d=\"M{end_x:.1} {end_y:.1}L{} {label:.1}\" stroke=\"{color}\" stroke-width=\"0.7\" stroke-dasharray=\"1 2\" fill=\"none\"/>\
             <text x=\"{}\" y=\"{:.1}\" fill=\"{color}\">{}</text>\n",
            right + 14.0,
            right + 18.0,
            label + 4.0,
            escaped(name)
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_by_powers() {
        let axis = Axis::over([1.0, 1000.0].into_iter(), 0.0, 100.0);
        assert!((axis.at(10.0) - axis.at(1.0) - (axis.at(1000.0) - axis.at(100.0))).abs() < 1e-9);
        assert_eq!(axis.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]);
    }
}
