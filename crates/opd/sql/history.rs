//! What was typed before, in a file of the user's. Without one, it is remembered as long as the shell lives.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Texts that are remembered.
const REMEMBERED: usize = 2_000;

/// Earlier texts and where they are kept.
#[derive(Debug, Default)]
pub struct History {
    path: Option<PathBuf>,
    texts: Vec<String>,
}

impl History {
    /// That of the user: `opd/history` where the XDG base directories have a program's state.
    pub fn of_user() -> Self {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
        state.map_or_else(Self::default, |state| Self::at(state.join("opd/history")))
    }

    /// That in a file, which need not be there.
    fn at(path: PathBuf) -> Self {
        // One that cannot be read is none: the question is what matters.
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = file.lines().collect();
        let kept = &lines[lines.len().saturating_sub(REMEMBERED)..];
        if lines.len() > 2 * REMEMBERED {
            let _ = std::fs::write(&path, kept.iter().map(|line| format!("{line}\n")).collect::<String>());
        }
        let texts = kept.iter().map(|line| unescaped(line)).collect();
        Self { path: Some(path), texts }
    }

    /// The texts, the latest last.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Remembers `text`, unless it is the latest already.
    pub fn add(&mut self, text: &str) {
        if self.texts.last().is_some_and(|last| last == text) {
            return;
        }
        self.texts.push(text.into());
        if let Some(path) = &self.path {
            // One that cannot be written is no reason to say anything.
            let _ = append(path, &escaped(text));
        }
    }
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Questions may hold what is nobody else's business.
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// A text on one line.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn unescaped(line: &str) -> String {
    let (mut text, mut chars) = (String::new(), line.chars());
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => text.push('\n'),
            Some(other) => text.push(other),
            None => text.push('\\'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    proptest! {
        #[test]
        fn a_text_comes_back(text in "(.|\n|\\\\|n){0,40}") {
            prop_assert!(!escaped(&text).contains('\n'));
            prop_assert_eq!(unescaped(&escaped(&text)), text);
        }
    }

    #[test]
    fn it_outlives_the_shell_and_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/opd/history");
        let mut history = History::at(path.clone());
        history.add("select 1\n+ 1;");
        history.add("select 1\n+ 1;");
        history.add("\\d");
        assert_eq!(History::at(path.clone()).texts(), ["select 1\n+ 1;", "\\d"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, (0..5_000).map(|i| format!("{i}\n")).collect::<String>()).unwrap();
        assert_eq!(History::at(path.clone()).texts().len(), REMEMBERED);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().next(), Some("3000"));
    }

    #[test]
    fn without_a_file_it_lasts_as_long_as_the_shell() {
        let mut history = History::at("/proc/nowhere/history".into());
        history.add("select 1;");
        assert_eq!(history.texts(), ["select 1;"]);
    }
}
