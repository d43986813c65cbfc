//! A put that survives loss of power. object_store's local file system never syncs: after its put returns, the bytes or
//! the name may still be only in the kernel's memory.

use crate::chance::unique_id;
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Result, Write},
    path::Path,
};

/// Writes `bytes` to a temporary file beside `file`, syncs it, links it to its name (which fails with `AlreadyExists` if
/// the name is taken), and syncs the folder. A crash leaves at most the temporary file, whose name no listing shows.
pub(crate) fn put_new(file: &Path, bytes: &[u8]) -> Result<()> {
    let folder = file.parent().ok_or(ErrorKind::InvalidInput)?;
    make_folder(folder)?;
    let mut name = file.file_name().ok_or(ErrorKind::InvalidInput)?.to_os_string();
    // object_store takes names that end in `#` and digits for temporary files, and leaves them out of listings.
    name.push(format!("#{}", digits()));
    let temporary = folder.join(name);
    let made = write_and_link(&temporary, file, bytes);
    let removed = fs::remove_file(&temporary);
    made?;
    removed?;
    sync_folder(folder)
}

fn write_and_link(temporary: &Path, file: &Path, bytes: &[u8]) -> Result<()> {
    let mut out = OpenOptions::new().write(true).create_new(true).open(temporary)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::hard_link(temporary, file)
}

/// Makes `folder` and those above it; each new name is synced into the folder that holds it.
fn make_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().ok_or(ErrorKind::NotFound)?;
    make_folder(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(above),
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)?.sync_all()
}

fn digits() -> String {
    unique_id().bytes().map(|byte| format!("{byte:03}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_once_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a b/ü/c.json");
        put_new(&file, b"first").unwrap();
        assert_eq!(put_new(&file, b"second").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).unwrap(), b"first");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
