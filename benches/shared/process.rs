//! What a process has taken so far.

use std::{error::Error, fs};

/// What all threads of a process took so far, ended ones included; the kernel counts it in steps of 10 ms.
pub fn cpu_seconds(process: &str) -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name in parentheses: fields 14 and 15 of proc(5), in ticks of which Linux has 100 a second.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    match fields.get(11..13) {
        Some([user, system]) => Ok((user.parse::<f64>()? + system.parse::<f64>()?) / 100.0),
        _ => Err(format!("/proc/{process}/stat is `{stat}`, expected 52 fields").into()),
    }
}

/// The most resident memory that a process has had so far, in MiB; `None` once it has ended.
#[allow(dead_code, reason = "not every bench that measures time measures memory")]
pub fn peak_mib(process: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// The number in the middle, of one at least.
pub fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
