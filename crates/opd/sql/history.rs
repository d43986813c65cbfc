//! Where what was typed is kept: a file of the user's, which the editor reads and writes.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Texts that are remembered.
pub const REMEMBERED: usize = 2_000;
/// The first line of a file in which `\n` stands for a new line and `\\` for a backslash. Programs before the editor wrote the same lines
/// without it.
const ESCAPED: &str = "#V2\n";

/// `opd/history` where the XDG base directories have a program's state.
pub fn path() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("opd/history"))
}

/// Makes the folder, and of an older program's file one that the editor understands.
///
/// # Errors
/// If that cannot be written; then nothing is remembered.
pub fn prepare(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let before = match fs::read_to_string(path) {
        Ok(text) if !text.is_empty() && !text.starts_with(ESCAPED) => text,
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // Beside it first, so that an end amid this takes nothing away. Questions may hold what is nobody else's business.
    let beside = path.with_extension(std::process::id().to_string());
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(ESCAPED.as_bytes())?;
    file.write_all(before.as_bytes())?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustyline::history::{FileHistory, History};
    use std::os::unix::fs::PermissionsExt;

    fn read(path: &Path) -> Vec<String> {
        prepare(path).unwrap();
        let mut history = FileHistory::new();
        history.set_max_len(REMEMBERED).unwrap();
        history.load(path).unwrap();
        history.iter().cloned().collect()
    }

    #[test]
    fn what_an_older_program_remembered_is_still_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let typed = ["select 'a\\n'\n+ 1;", "\\d", "select 2;"];
        let lines: String = typed.iter().map(|text| text.replace('\\', "\\\\").replace('\n', "\\n") + "\n").collect();
        fs::write(&path, &lines).unwrap();
        for _ in 0..2 {
            assert_eq!(read(&path), typed);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{ESCAPED}{lines}"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn it_outlives_the_shell_and_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/opd/history");
        prepare(&path).unwrap();
        let mut history = FileHistory::new();
        history.set_max_len(REMEMBERED).unwrap();
        for i in 0..REMEMBERED + 50 {
            history.add(&format!("select\n{i};")).unwrap();
            history.append(&path).unwrap();
        }
        let kept = read(&path);
        assert_eq!((kept.len(), kept[0].as_str()), (REMEMBERED, "select\n50;"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told() {
        assert!(prepare(Path::new("/proc/nowhere/history")).is_err());
    }
}
