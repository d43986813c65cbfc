//! Where words go: data to standard output, messages to standard error. A reader that has seen enough (`| head`), or that is
//! gone with its terminal, is no fault and ends no work.

use crate::error::{CommandError, Result};
use std::io::{ErrorKind, Write};

/// Says a line on standard error.
pub fn say(line: &str) {
    // There is nobody left to tell that nobody listens.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Shows text on standard output.
///
/// # Errors
/// If it cannot be written, but not because the reader is gone.
pub fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    unless_gone(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// No error if the reader is gone.
///
/// # Errors
/// Any other.
pub fn unless_gone(written: std::io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CommandError::new(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
