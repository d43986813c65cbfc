//! Between Rust slices and tensors.

use crate::Result;
use tch::{Device, Kind, Tensor};

fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&n| n as i64).collect()
}

/// An int64 tensor of ids on a device.
pub(crate) fn ids(values: &[i64], shape: &[usize], device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_view(dims(shape).as_slice())?.f_to_device(device)?)
}

/// A float32 tensor on a device.
pub(crate) fn floats(values: &[f32], shape: &[usize], device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_view(dims(shape).as_slice())?.f_to_device(device)?)
}

/// A float64 tensor on a device.
pub(crate) fn doubles(values: &[f64], shape: &[usize], device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_view(dims(shape).as_slice())?.f_to_device(device)?)
}

/// All values of a tensor in row-major order, as float32.
pub(crate) fn to_floats(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut values = vec![0.0; tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}

/// All values of a tensor in row-major order, as token ids.
pub(crate) fn to_ids(tensor: &Tensor) -> Result<Vec<i32>> {
    let tensor = tensor.f_to_kind(Kind::Int)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut values = vec![0; tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}
