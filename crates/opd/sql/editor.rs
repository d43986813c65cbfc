//! Texts from a terminal, with completion and earlier ones a key away. The editor draws on the terminal itself: standard output is data.

use super::{
    complete::{Names, complete},
    history::{self, REMEMBERED},
    statements::{is_blank, split},
};
use crate::{
    error::{CommandError, Result},
    output::say,
};
use rustyline::{
    Behavior, CompletionType, Config, Context, Helper,
    completion::Completer,
    config::BellStyle,
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::FileHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};
use std::{
    fs::OpenOptions,
    io::{ErrorKind, IsTerminal, Write},
    path::PathBuf,
};

/// Terminals that show lines and nothing else, as the editor has them too.
const PLAIN: [&str; 3] = ["dumb", "cons25", "emacs"];

/// What came of reading a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// This was typed.
    Text(String),
    /// It was given up.
    Dropped,
    /// The end was asked for, or nothing comes any more.
    End,
}

/// Reads texts, one after another.
pub enum Editor {
    /// On a terminal that can be drawn on, with the file that earlier texts are in.
    Drawing(Box<rustyline::Editor<Sql, FileHistory>>, Option<PathBuf>),
    /// Line by line, as they come.
    Plain,
}

impl Editor {
    /// For this process's terminal, with the user's earlier texts.
    ///
    /// # Errors
    /// If the terminal cannot be opened.
    pub fn open() -> Result<Self> {
        if !can_draw() {
            return Ok(Self::Plain);
        }
        let configured = Config::builder().max_history_size(REMEMBERED).map_err(broken)?;
        let config = configured
            .behavior(Behavior::PreferTerm)
            .bell_style(BellStyle::None)
            .completion_type(CompletionType::List)
            .completion_show_all_if_ambiguous(true)
            .build();
        let mut editor = rustyline::Editor::with_config(config).map_err(broken)?;
        let path = history::path();
        if let Some(path) = &path {
            // One that cannot be read is none: the question is what matters.
            let _ = history::prepare(path);
            let _ = editor.load_history(path);
        }
        Ok(Self::Drawing(Box::new(editor), path))
    }

    /// Reads a text behind `prompt`.
    ///
    /// # Errors
    /// If the terminal cannot be read or set.
    pub fn read(&mut self, prompt: &str, names: Names) -> Result<Typed> {
        let Self::Drawing(editor, _) = self else { return read_plain(prompt) };
        editor.set_helper(Some(Sql(names)));
        match editor.readline(prompt) {
            Ok(text) => Ok(Typed::Text(text)),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Ok(Typed::Dropped),
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                say("a key sent bytes that are not UTF-8: what was typed is dropped");
                Ok(Typed::Dropped)
            }
            Err(error) => Err(broken(error)),
        }
    }

    /// Remembers `text`, unless it is the latest already.
    pub fn remember(&mut self, text: &str) {
        let Self::Drawing(editor, path) = self else { return };
        // One that cannot be written is no reason to say anything.
        if let (Ok(true), Some(path)) = (editor.add_history_entry(text), path) {
            let _ = editor.append_history(path);
        }
    }
}

fn broken(error: impl std::fmt::Display) -> CommandError {
    CommandError::new(format!("the terminal cannot be read: {error}"))
        .hint("statements are read from standard input too: opd sql STORE < FILE")
}

/// Whether there is a terminal beside standard output to draw on: without one the editor would draw into the data.
fn can_draw() -> bool {
    let is_plain = std::env::var("TERM").is_ok_and(|term| PLAIN.iter().any(|plain| plain.eq_ignore_ascii_case(&term)));
    let terminal = || OpenOptions::new().read(true).write(true).open("/dev/tty");
    !is_plain && (std::io::stdout().is_terminal() || terminal().is_ok())
}

/// Lines until they make whole inputs. The terminal's own Ctrl-C drops a line, its Ctrl-D ends the input.
fn read_plain(prompt: &str) -> Result<Typed> {
    let (mut screen, mut text) = (std::io::stderr(), String::new());
    screen.write_all(prompt.as_bytes()).and_then(|()| screen.flush()).map_err(broken)?;
    loop {
        match std::io::stdin().read_line(&mut text) {
            Ok(0) if is_blank(&text) => return Ok(Typed::End),
            Ok(read) if read == 0 || is_whole(&text) => return Ok(Typed::Text(text)),
            Ok(_) => {}
            Err(error) => return Err(broken(error)),
        }
    }
}

/// Whether `text` can be taken, or its last statement goes on.
fn is_whole(text: &str) -> bool {
    is_blank(split(text).1)
}

/// What the editor needs to know of SQL, and what there is to name.
pub struct Sql(Names);

impl Completer for Sql {
    type Candidate = String;

    fn complete(&self, text: &str, cursor: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(complete(&self.0, text, cursor))
    }
}

impl Validator for Sql {
    fn validate(&self, typed: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        match is_whole(typed.input()) {
            true => Ok(ValidationResult::Valid(None)),
            false => Ok(ValidationResult::Incomplete),
        }
    }
}

impl Hinter for Sql {
    type Hint = String;
}

impl Highlighter for Sql {}

impl Helper for Sql {}
