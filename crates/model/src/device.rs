//! Where tensors live, by name.

use crate::{Error, Result};
use tch::{Cuda, Device};

/// Loads libtorch's CUDA half, if there is one: call it first thing in `main`, before anything asks for a device.
///
/// Linkers drop `libtorch_cuda.so` from a program because no symbol of it is named, and then libtorch says that there is no
/// CUDA on a machine that has it. The library registers itself when it is loaded, so loading it by hand is enough. Without
/// one beside `libtorch_cpu.so` (a CPU build) nothing happens.
pub fn load_cuda() {
    #[cfg(target_os = "linux")]
    {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
        let mapped = maps.lines().find_map(|line| line.find('/').map(|at| &line[at..]).filter(|p| is_libtorch_cpu(p)));
        let Some(library) = mapped.map(|path| std::path::Path::new(path).with_file_name("libtorch_cuda.so")) else {
            return;
        };
        // SAFETY: loading runs the initialisers of the CUDA half of the very libtorch that is already mapped, which is what
        // the dynamic linker would have done had the program named it. The handle is leaked, so it is never unloaded.
        if let Ok(handle) = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) } {
            std::mem::forget(handle);
        }
    }
}

#[cfg(target_os = "linux")]
fn is_libtorch_cpu(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with("libtorch_cpu.so"))
}

/// The device called `cpu`, `cuda` (the first one) or `cuda:N`, or why it cannot be had.
pub fn device(name: &str) -> Result<Device> {
    let error = |reason: String| Err(Error::Device { name: name.to_owned(), reason });
    let index = match name {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => 0,
        _ => match name.strip_prefix("cuda:").map(str::parse::<usize>) {
            Some(Ok(index)) => index,
            _ => return error("unknown; use `cpu`, `cuda` or `cuda:N`".into()),
        },
    };
    if !Cuda::is_available() {
        return error("no CUDA here (no GPU, no driver, or a CPU build of libtorch); use `cpu`".into());
    }
    match usize::try_from(Cuda::device_count()).unwrap_or(0) {
        count if index < count => Ok(Device::Cuda(index)),
        count => error(format!("this machine has {count} CUDA device(s), numbered from 0")),
    }
}

/// How many CPU threads one operation may use. The same number gives the same bits.
pub fn set_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_or_refused() {
        load_cuda();
        assert_eq!(device("cpu").unwrap(), Device::Cpu);
        for name in ["gpu", "cuda:", "cuda:x", "CPU", ""] {
            assert!(device(name).unwrap_err().to_string().contains("use `cpu`, `cuda` or `cuda:N`"), "{name}");
        }
        match device("cuda") {
            Ok(device) => assert_eq!(device, Device::Cuda(0)),
            Err(error) => assert!(error.to_string().contains("no CUDA here"), "{error}"),
        }
        assert!(device("cuda:4096").is_err());
    }
}
