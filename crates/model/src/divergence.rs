//! How far a student is from its teacher: the whole distribution of each, at every position of given responses.

use crate::batch::{self, Batch, Sequence};
use crate::{Error, Result, Transformer, host, support};
use tch::{Kind, Tensor};

/// The reverse Kullback-Leibler divergence KL(student || teacher), in nats, at each response position of each row
/// (prompt, response): over the full vocabulary, both at `temperature`.
///
/// The two share a vocabulary; how far each pads it does not matter. At most `max_tokens_per_batch` tokens, padding included, run
/// through the networks at once (a longer row runs alone).
pub fn reverse_kl(
    student: &Transformer,
    teacher: &Transformer,
    rows: &[(&[i32], &[i32])],
    temperature: f64,
    max_tokens_per_batch: usize,
) -> Result<Vec<Vec<f32>>> {
    check(student, teacher, rows, temperature)?;
    let _guard = tch::no_grad_guard();
    let device = student.device();
    let mut divergences: Vec<Vec<f32>> = rows.iter().map(|row| Vec::with_capacity(row.1.len())).collect();
    for batch in Batch::all(rows, max_tokens_per_batch) {
        let hidden = (batch.hidden(student)?, batch.hidden(teacher)?);
        for (positions, index) in batch.chunks(support::chunk_rows(student.real_vocab(), device)) {
            let logits = |model: &Transformer, hidden: &Tensor| {
                let index = host::ids(index, &[index.len()], model.device())?;
                Ok::<_, Error>(model.logits(&hidden.f_index_select(0, &index)?)?.f_to_device(device)?)
            };
            let of_chunk = kl(&logits(student, &hidden.0)?, &logits(teacher, &hidden.1)?, temperature)?;
            for (&(row, position), nats) in positions.iter().zip(of_chunk) {
                if !nats.is_finite() {
                    return Err(Error::NotFinite { row, position, logprob: nats });
                }
                divergences[row].push(nats);
            }
        }
    }
    Ok(divergences)
}

fn check(student: &Transformer, teacher: &Transformer, rows: &[Sequence], temperature: f64) -> Result<()> {
    let error = |key, expected, found| Err(Error::Setting { key, expected, found });
    if !(temperature > 0.0 && temperature.is_finite()) {
        return error("temperature", "above 0".into(), temperature.to_string());
    }
    let (student_ids, teacher_ids) = (student.real_vocab(), teacher.real_vocab());
    if student_ids != teacher_ids {
        return error(
            "teacher's vocabulary",
            format!("the {student_ids} ids of the student's"),
            teacher_ids.to_string(),
        );
    }
    rows.iter().enumerate().try_for_each(|(i, row)| {
        batch::check(student, i, *row)?;
        batch::check(teacher, i, *row)
    })
}

/// Sum of p (log p - log q) over each row of two logits `[N, V]`.
///
/// Float64 from the logits on: a float32 log-probability is off by up to 1e-6, as much as two networks that nearly agree differ,
/// and the sum might come out below 0.
fn kl(p: &Tensor, q: &Tensor, temperature: f64) -> Result<Vec<f32>> {
    let logs = |logits: &Tensor| {
        Ok::<_, Error>(logits.f_to_kind(Kind::Double)?.f_div_scalar(temperature)?.f_log_softmax(-1, Kind::Double)?)
    };
    let (p, q) = (logs(p)?, logs(q)?);
    host::to_floats(&p.f_exp()?.f_mul(&p.f_sub(&q)?)?.f_sum_dim_intlist(-1, false, Kind::Double)?)
}
