//! A text from a terminal, with a cursor, completion and earlier texts. It is drawn on standard error: standard output is data.

use super::{
    keys::{self, Key},
    line::{Change, Language, Line},
    screen::{Drawn, draw, table},
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::Write;

/// Most choices that are shown.
const CHOICES: usize = 60;

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

/// Reads a text behind `prompt`.
///
/// # Errors
/// If the terminal cannot be read or set.
pub fn read(prompt: &str, earlier: &[String], language: &dyn Language) -> std::io::Result<Typed> {
    let _raw = Raw::set()?;
    let mut line = Line::after(earlier.to_vec());
    let mut canvas = Canvas::new(prompt);
    canvas.redraw(&line)?;
    let mut input = std::io::stdin().lock();
    loop {
        // At its end, as if the end was asked for.
        let change = keys::next(&mut input)?.map_or(Change::Left, |key: Key| line.press(key, language));
        let typed = match change {
            Change::Edited => None,
            Change::Choices(choices) => {
                canvas.leave()?;
                canvas.write(&table(&choices, canvas.width(), CHOICES))?;
                None
            }
            Change::Cleared => {
                canvas.write("\x1b[H\x1b[2J")?;
                canvas.row = 0;
                None
            }
            Change::Taken => Some(Typed::Text(line.text().into())),
            Change::Dropped => Some(Typed::Dropped),
            Change::Left => Some(Typed::End),
        };
        match typed {
            None => canvas.redraw(&line)?,
            Some(typed) => {
                canvas.leave()?;
                return Ok(typed);
            }
        }
    }
}

/// The part of the terminal that the text is drawn on.
struct Canvas {
    prompt: String,
    /// The row of the cursor, from the prompt's.
    row: usize,
    /// The last row.
    last: usize,
}

impl Canvas {
    fn new(prompt: &str) -> Self {
        Self { prompt: prompt.into(), row: 0, last: 0 }
    }

    fn width(&self) -> usize {
        tcgetwinsize(std::io::stderr()).map_or(80, |size| usize::from(size.ws_col)).max(20)
    }

    fn redraw(&mut self, line: &Line) -> std::io::Result<()> {
        let Drawn { text, end, cursor } = draw(&self.prompt, line.text(), line.cursor(), self.width());
        let (up, back) = (up(self.row), up(end.0 - cursor.0));
        let right = if cursor.1 > 0 { format!("\x1b[{}C", cursor.1) } else { String::new() };
        (self.row, self.last) = (cursor.0, end.0);
        self.write(&format!("{up}\r\x1b[J{text}{back}\r{right}"))
    }

    /// Goes below what was drawn; the next drawing begins there.
    fn leave(&mut self) -> std::io::Result<()> {
        let down = self.last - self.row;
        (self.row, self.last) = (0, 0);
        self.write(&format!("{}\r\n", "\n".repeat(down)))
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        let mut screen = std::io::stderr().lock();
        screen.write_all(text.as_bytes())?;
        screen.flush()
    }
}

fn up(rows: usize) -> String {
    if rows > 0 { format!("\x1b[{rows}A") } else { String::new() }
}

/// The terminal gives every key as it is pressed, until this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn set() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}
