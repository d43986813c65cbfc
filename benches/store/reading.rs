//! Scored rows read back three ways. All readers hand every row's columns over and add up all their numbers, so nothing is
//! read that is not used; their sums have to agree.

use crate::{
    AnyError,
    material::{BATCHES, COLUMNS, Written},
    process::{cpu_seconds, median},
    run::{ROWS, SET},
};
use arrow::{
    array::AsArray,
    datatypes::{DataType, Float32Type, Int32Type},
};
use futures::StreamExt;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    time::Instant,
};
use store::{Selection, Store};

const REPETITIONS: usize = 9;

/// The table's rows go out; the CSV comes back.
pub async fn reading(folder: &Path) -> Result<Vec<String>, AnyError> {
    let written = Written::new(folder).await?;
    let (rows, tokens) = (f64::from(ROWS) * BATCHES as f64, written.tokens as f64);
    println!("reading {rows} scored rows of {:.1} response tokens, all numbers of a row used\n", tokens / rows);
    println!("                              speed to                                    MiB        CPU, ms");
    println!(" reader                     JSON lines     rows/s     tokens/s       on disk  a 1,000 rows");

    let mut runs: [(&str, u64, Vec<Run>); 3] = [
        ("JSON lines, serde_json", fs::metadata(&written.json)?.len(), vec![]),
        ("one Parquet file, zstd", fs::metadata(&written.parquet)?.len(), vec![]),
        ("the store's stream", written.store_bytes, vec![]),
    ];
    for _ in 0..REPETITIONS {
        runs[0].2.push(Run::time(|| read_json(&written.json))?);
        runs[1].2.push(Run::time(|| read_parquet(&written.parquet))?);
        let (start, cpu) = (Instant::now(), cpu_seconds("self")?);
        let sum = read_store(&written.store).await?;
        runs[2].2.push(Run { seconds: start.elapsed().as_secs_f64(), cpu: cpu_seconds("self")? - cpu, sum });
    }
    let sums: Vec<Sum> = runs.iter().flat_map(|run| &run.2).map(|run| run.sum).collect();
    if sums.iter().any(|sum| *sum != sums[0] || sum.rows != rows as u64) {
        return Err(format!("the readers disagree: {sums:?}").into());
    }
    let mut csv = vec!["reader,rows_per_s,tokens_per_s,mib,cpu_ms_per_1000_rows".to_string()];
    let json = median(runs[0].2.iter().map(|run| run.seconds));
    for (name, bytes, runs) in &runs {
        let seconds = median(runs.iter().map(|run| run.seconds));
        // The clock of CPU time is coarse, so all repetitions together.
        let cpu = runs.iter().map(|run| run.cpu).sum::<f64>() / runs.len() as f64 * 1e6 / rows;
        let mib = *bytes as f64 / 1048576.0;
        let (rows, tokens) = (rows / seconds, tokens / seconds);
        println!(
            " {name:<25} {:>8.1} x   {rows:>8.0}   {tokens:>10.0}      {mib:>8.1}      {cpu:>8.1}",
            json / seconds
        );
        csv.push(format!("{name},{rows:.0},{tokens:.0},{mib:.2},{cpu:.2}").replacen(", ", " ", 1));
    }
    Ok(csv)
}

struct Run {
    seconds: f64,
    cpu: f64,
    sum: Sum,
}

impl Run {
    fn time(read: impl FnOnce() -> Result<Sum, AnyError>) -> Result<Self, AnyError> {
        let (start, cpu) = (Instant::now(), cpu_seconds("self")?);
        let sum = read()?;
        Ok(Self { seconds: start.elapsed().as_secs_f64(), cpu: cpu_seconds("self")? - cpu, sum })
    }
}

/// Rows, and the sum of all their numbers: integers exactly, floats by their bits, so that order does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub rows: u64,
    total: u64,
}

impl Sum {
    fn ints(&mut self, values: &[i32]) {
        self.total = values.iter().fold(self.total, |sum, value| sum.wrapping_add(*value as u64));
    }

    fn floats(&mut self, values: &[f32]) {
        self.total = values.iter().fold(self.total, |sum, value| sum.wrapping_add(u64::from(value.to_bits())));
    }
}

/// Streams every scored row of a store.
pub async fn read_store(store: &Store) -> Result<Sum, AnyError> {
    let snapshot = store.snapshot(None).await?;
    let mut stream = store.scored(&snapshot, &Selection::scored_in(SET));
    let mut sum = Sum::default();
    while let Some(scored) = stream.next().await {
        let scored = scored?;
        for row in scored.rows.iter() {
            let s = scored.data.row(row as usize);
            let rollout = s.rollout;
            sum.rows += 1;
            for ints in [rollout.prompt_ids, rollout.response_ids, rollout.loss_mask] {
                sum.ints(ints);
            }
            for ints in [rollout.draw_ids, rollout.draw_counts, rollout.sampler_top_ids, s.teacher_top_ids] {
                sum.ints(ints.values());
            }
            for floats in [rollout.sampler_logprobs, s.teacher_logprobs, s.teacher_tail_logprobs] {
                sum.floats(floats);
            }
            for floats in [
                rollout.draw_logprobs,
                rollout.sampler_top_logprobs,
                s.teacher_top_logprobs,
                s.draw_teacher_logprobs,
                s.sampler_top_teacher_logprobs,
            ] {
                sum.floats(floats.values());
            }
        }
    }
    Ok(sum)
}

fn read_parquet(file: &Path) -> Result<Sum, AnyError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(file)?)?;
    let columns = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
    let mut sum = Sum::default();
    for batch in builder.with_projection(columns).with_batch_size(ROWS as usize).build()? {
        let batch = batch?;
        sum.rows += batch.num_rows() as u64;
        for column in batch.columns() {
            let mut column = column.clone();
            while let Some(list) = column.as_list_opt::<i32>() {
                column = list.values().clone();
            }
            match column.data_type() {
                DataType::Int32 => sum.ints(column.as_primitive::<Int32Type>().values()),
                DataType::Float32 => sum.floats(column.as_primitive::<Float32Type>().values()),
                other => return Err(format!("expected int32 or float32, found {other}").into()),
            }
        }
    }
    Ok(sum)
}

/// A row as people log it.
#[derive(Serialize, Deserialize)]
pub struct Line {
    pub prompt_ids: Vec<i32>,
    pub response_ids: Vec<i32>,
    pub loss_mask: Vec<i32>,
    pub sampler_logprobs: Vec<f32>,
    pub draw_ids: Vec<Vec<i32>>,
    pub draw_counts: Vec<Vec<i32>>,
    pub draw_logprobs: Vec<Vec<f32>>,
    pub sampler_top_ids: Vec<Vec<i32>>,
    pub sampler_top_logprobs: Vec<Vec<f32>>,
    pub teacher_logprobs: Vec<f32>,
    pub teacher_top_ids: Vec<Vec<i32>>,
    pub teacher_top_logprobs: Vec<Vec<f32>>,
    pub teacher_tail_logprobs: Vec<f32>,
    pub draw_teacher_logprobs: Vec<Vec<f32>>,
    pub sampler_top_teacher_logprobs: Vec<Vec<f32>>,
}

fn read_json(file: &Path) -> Result<Sum, AnyError> {
    let mut lines = BufReader::with_capacity(1 << 20, fs::File::open(file)?);
    let (mut sum, mut text) = (Sum::default(), String::new());
    while lines.read_line(&mut text)? > 0 {
        let line: Line = serde_json::from_str(&text)?;
        sum.rows += 1;
        for ints in [&line.prompt_ids, &line.response_ids, &line.loss_mask] {
            sum.ints(ints);
        }
        for lists in [&line.draw_ids, &line.draw_counts, &line.sampler_top_ids, &line.teacher_top_ids] {
            lists.iter().for_each(|ints| sum.ints(ints));
        }
        for floats in [&line.sampler_logprobs, &line.teacher_logprobs, &line.teacher_tail_logprobs] {
            sum.floats(floats);
        }
        for lists in [
            &line.draw_logprobs,
            &line.sampler_top_logprobs,
            &line.teacher_top_logprobs,
            &line.draw_teacher_logprobs,
            &line.sampler_top_teacher_logprobs,
        ] {
            lists.iter().for_each(|floats| sum.floats(floats));
        }
        text.clear();
    }
    Ok(sum)
}
