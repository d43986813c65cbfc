//! What the plots have in common: where they are written, names, colours, and labels that do not run into each other.

use crate::error::{CommandError, Result};
use std::path::{Path, PathBuf};

/// The least distance of two labels.
pub const LABEL: f64 = 15.0;

/// That a file can be written there, found out before any work.
///
/// # Errors
/// If its folder is not there.
pub fn check_place(place: &Path) -> Result<PathBuf> {
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() || place.is_dir() {
        let what = format!("--plot `{}`: it cannot be written there", place.display());
        return Err(CommandError::new(what).hint("name a file in a folder that is there"));
    }
    Ok(place.to_path_buf())
}

/// Text as it may stand in an SVG.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A colour by the place in the circle of hues, darker every other time, and a dash every third.
pub fn look(i: usize, of: usize) -> (String, &'static str) {
    let hue = 6.0 * i as f64 / of.max(1) as f64;
    let strength = if i.is_multiple_of(2) { 0.55 } else { 0.75 };
    let channel = |offset: f64| {
        let distance = ((hue + offset) % 6.0 - 3.0).abs();
        (255.0 * strength * (distance - 1.0).clamp(0.0, 1.0)) as u8
    };
    let dash = ["", " stroke-dasharray=\"7 3\"", " stroke-dasharray=\"2 3\""][i % 3];
    (format!("#{:02x}{:02x}{:02x}", channel(0.0), channel(4.0), channel(2.0)), dash)
}

/// Heights for labels near `ends`, in their order, none nearer to the next than a line of text.
pub fn apart(ends: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ends.len()).collect();
    order.sort_by(|a, b| ends[*a].total_cmp(&ends[*b]));
    let mut heights = vec![0.0; ends.len()];
    let mut free = top;
    for i in &order {
        heights[*i] = ends[*i].max(free);
        free = heights[*i] + LABEL;
    }
    // What has run over the lower edge is pushed back up.
    let mut free = bottom;
    for i in order.iter().rev() {
        heights[*i] = heights[*i].min(free);
        free = heights[*i] - LABEL;
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_never_collide_and_stay_in_their_order_and_frame() {
        for ends in [vec![100.0; 25], vec![640.0; 20], vec![70.0, 71.0, 300.0, 69.0], vec![300.0, 310.0, 305.0]] {
            let heights = apart(&ends, 60.0, 650.0);
            for (i, a) in heights.iter().enumerate() {
                assert!((60.0..=650.0).contains(a), "{heights:?}");
                for (j, b) in heights.iter().enumerate().skip(i + 1) {
                    assert!((a - b).abs() >= LABEL - 1e-9, "{i} {j}: {heights:?}");
                    assert!(ends[i] == ends[j] || (ends[i] < ends[j]) == (a < b), "{i} {j}: {heights:?}");
                }
            }
        }
        assert_eq!(apart(&[100.0, 400.0], 60.0, 650.0), [100.0, 400.0], "with room enough each is at its line's end");
    }

    #[test]
    fn colours_of_neighbours_differ() {
        for of in [2, 10, 25] {
            let looks: Vec<_> = (0..of).map(|i| look(i, of)).collect();
            for (i, a) in looks.iter().enumerate() {
                assert!(a.0.len() == 7 && looks.iter().skip(i + 1).all(|b| a != b), "{looks:?}");
            }
        }
    }
}
