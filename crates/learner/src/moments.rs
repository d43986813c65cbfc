//! The optimizer's moments to and from safetensors: `m.<parameter>`, `v.<parameter>`, and `step` as metadata.
//!
//! The bytes are a function of the moments alone: names ascending, one key of metadata, little-endian float32.

use crate::{AdamW, LearnError, Result};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::{BTreeMap, HashMap};
use tch::{Device, Kind, Tensor};

/// Metadata key of the number of updates made.
const STEP: &str = "step";

impl AdamW {
    /// The moments as the bytes of a safetensors file: the same moments give the same bytes.
    ///
    /// # Errors
    /// Only what libtorch or the format refuses.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let mut tensors = BTreeMap::new();
        for moments in &self.moments {
            for (which, tensor) in [("m", &moments.m), ("v", &moments.v)] {
                let shape: Vec<usize> = tensor.size().iter().map(|n| *n as usize).collect();
                tensors.insert(format!("{which}.{}", moments.name), (shape, bytes_of(tensor)?));
            }
        }
        let views: Vec<(&String, TensorView)> = tensors
            .iter()
            .map(|(name, (shape, bytes))| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
            .collect::<std::result::Result<_, safetensors::SafeTensorError>>()
            .map_err(unreadable)?;
        let metadata = HashMap::from([(STEP.to_owned(), self.step.to_string())]);
        safetensors::serialize(views, &Some(metadata)).map_err(unreadable)
    }

    /// Takes over the moments of such a file. On an error nothing is taken over.
    ///
    /// # Errors
    /// [`LearnError::Moments`] if a tensor is missing, too many, or not of its parameter's shape.
    pub fn load_safetensors(&mut self, bytes: &[u8]) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let step = header.metadata().as_ref().and_then(|metadata| metadata.get(STEP));
        let step = step.and_then(|step| step.parse::<u64>().ok()).ok_or_else(|| LearnError::Moments {
            what: STEP.into(),
            expected: "a number of updates in the metadata".into(),
            found: step.map_or("nothing".into(), |step| format!("`{step}`")),
        })?;
        if file.len() != 2 * self.moments.len() {
            return Err(LearnError::Moments {
                what: "tensors".into(),
                expected: format!("{}, two a parameter", 2 * self.moments.len()),
                found: file.len().to_string(),
            });
        }
        let mut loaded = Vec::with_capacity(file.len());
        for moments in &self.moments {
            for (which, tensor) in [("m", &moments.m), ("v", &moments.v)] {
                loaded.push(read(&file, &format!("{which}.{}", moments.name), tensor)?);
            }
        }
        for (moments, pair) in self.moments.iter_mut().zip(loaded.chunks_exact(2)) {
            moments.m.f_copy_(&pair[0])?;
            moments.v.f_copy_(&pair[1])?;
        }
        self.step = step;
        Ok(())
    }
}

/// Tensor `name` of `file`, on the CPU, checked to have the shape of `like`.
fn read(file: &SafeTensors, name: &str, like: &Tensor) -> Result<Tensor> {
    let shape = like.size();
    let wrong = |found: String| LearnError::Moments { what: name.into(), expected: format!("F32 {shape:?}"), found };
    let view = file.tensor(name).map_err(|_| wrong("no such tensor".into()))?;
    let found: Vec<i64> = view.shape().iter().map(|n| *n as i64).collect();
    if view.dtype() != Dtype::F32 || found != shape {
        return Err(wrong(format!("{:?} {found:?}", view.dtype())));
    }
    let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Ok(Tensor::f_from_slice(&values)?.f_view(shape.as_slice())?)
}

fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?.f_reshape([-1])?;
    let values = Vec::<f32>::try_from(flat)?;
    Ok(values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn unreadable(error: safetensors::SafeTensorError) -> LearnError {
    LearnError::Moments { what: "file".into(), expected: "safetensors".into(), found: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OptimizerConfig;

    fn optimizer(names: &[&str], shape: &[i64]) -> AdamW {
        let zeros = |name: &&str| (name.to_string(), Tensor::zeros(shape, (Kind::Float, Device::Cpu)));
        AdamW::new(OptimizerConfig::default(), &names.iter().map(zeros).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn moments_of_other_parameters_are_refused_by_name() {
        let bytes = optimizer(&["a", "b"], &[2, 3]).to_safetensors().unwrap();
        let refused = |mut optimizer: AdamW, bytes: &[u8]| optimizer.load_safetensors(bytes).unwrap_err().to_string();
        let message = refused(optimizer(&["a", "b"], &[3, 2]), &bytes);
        assert!(message.contains("m.a") && message.contains("[3, 2]") && message.contains("[2, 3]"), "{message}");
        let message = refused(optimizer(&["a", "c"], &[2, 3]), &bytes);
        assert!(message.contains("m.c") && message.contains("no such tensor"), "{message}");
        let message = refused(optimizer(&["a"], &[2, 3]), &bytes);
        assert!(message.contains('4') && message.contains('2'), "{message}");
        assert!(refused(optimizer(&["a", "b"], &[2, 3]), &bytes[..bytes.len() - 1]).contains("safetensors"));
        assert!(refused(optimizer(&[], &[1]), b"").contains("safetensors"));
    }

    #[test]
    fn a_file_without_its_step_is_refused() {
        let data = [0u8; 4];
        let view = |name: &str| (name.to_owned(), TensorView::new(Dtype::F32, vec![1], &data).unwrap());
        let bytes = safetensors::serialize([view("m.a"), view("v.a")], &None).unwrap();
        let message = optimizer(&["a"], &[1]).load_safetensors(&bytes).unwrap_err().to_string();
        assert!(message.contains("`step`"), "{message}");
    }
}
