//! Where an answer goes while a line says how far it is.

use super::Format;
use crate::{
    error::{CommandError, Result},
    progress::Line,
};
use std::{
    fs::File,
    io::{IsTerminal, Stdout, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// Characters of a line where there is no terminal to ask.
const WIDTH: usize = 120;

/// How far a question is, as people see it; a clone is the same.
#[derive(Clone, Default)]
pub struct Shown(Arc<Mutex<Stage>>);

#[derive(Default)]
enum Stage {
    #[default]
    NotYet,
    Line(Line),
    /// The answer has begun, or there is none.
    Over,
}

impl Shown {
    /// Shows `state` on the terminal, if there is one, as long as the answer has not begun.
    pub fn show(&self, state: &str) {
        let mut stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*stage, Stage::NotYet) && std::io::stderr().is_terminal() {
            *stage = Stage::Line(Line::new("sql"));
        }
        if let Stage::Line(line) = &*stage {
            line.show(state);
        }
    }

    /// Removes the line for good.
    pub fn end(&self) {
        let mut stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Stage::Line(line) = std::mem::replace(&mut *stage, Stage::Over) {
            line.clear();
        }
    }
}

/// Standard output, or a file.
pub enum Output {
    /// The line goes where the answer would come into its way.
    Screen(Stdout, Option<Shown>),
    /// A file.
    File(File),
}

impl Output {
    /// Opens where the answer goes.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn open(path: Option<&Path>, shown: &Shown) -> Result<Self> {
        let fault = |path: &Path, error| CommandError::new(format!("--out `{}`: {error}", path.display()));
        match path {
            Some(path) => Ok(Output::File(File::create(path).map_err(|error| fault(path, error))?)),
            None => {
                let out = std::io::stdout();
                let over_line = out.is_terminal().then(|| shown.clone());
                Ok(Output::Screen(out, over_line))
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Output::Screen(out, line) => {
                if let Some(line) = line.take() {
                    line.end();
                }
                out.write(bytes)
            }
            Output::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Output::Screen(out, _) => out.flush(),
            Output::File(file) => file.flush(),
        }
    }
}

/// The format with what the terminal says of its width.
pub fn format(format: Format) -> query::Format {
    match format {
        Format::Table => query::Format::Table { width: terminal_width() },
        Format::Csv => query::Format::Csv,
        Format::Json => query::Format::Json,
    }
}

fn terminal_width() -> usize {
    match std::io::stdout().is_terminal() {
        true => rustix::termios::tcgetwinsize(std::io::stdout()).map_or(WIDTH, |size| usize::from(size.ws_col).max(40)),
        false => WIDTH,
    }
}
