//! The shell's own commands: lines that begin with `\`.

use super::Format;
use crate::error::{CommandError, Result};
use clap::ValueEnum;

/// How each is written, and what it does.
pub const COMMANDS: [(&str, &str); 8] = [
    ("\\d", "list the tables; with a table's name, its columns"),
    ("\\df", "list the store's functions"),
    ("\\at SEQ", "see the store as it was after a commit; `\\at live` as it is"),
    ("\\format FORMAT", "print answers as `table`, `csv` or `json`"),
    ("\\timing", "say how long each answer took, or no longer"),
    ("\\?", "this list"),
    ("\\q", "leave; Ctrl-D does too. Ctrl-C clears the line or stops the question"),
    ("...;", "SQL, over as many lines as it takes"),
];

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A question in SQL.
    Ask(String),
    /// The store as it was after a commit, or as it is.
    At(Option<u64>),
    /// Another format, or the name of this one.
    Format(Option<Format>),
    /// Timing on or off.
    Timing,
    /// What there is.
    Help,
    /// The end.
    Quit,
}

/// Reads a line that begins with `\`.
///
/// # Errors
/// If there is no such command, or what stands behind it is not what it takes.
pub fn parse(line: &str) -> Result<Command> {
    // psql's users end commands with `;` too.
    let line = line.trim().trim_end_matches(';');
    let (name, argument) = line.split_once(char::is_whitespace).map_or((line, ""), |(a, b)| (a, b.trim()));
    let fault = |what: &str| CommandError::new(format!("`{line}`: {what}")).hint("`\\?` lists the commands");
    let without = |command: Command| match argument {
        "" => Ok(command),
        _ => Err(fault(&format!("`{name}` takes nothing behind it"))),
    };
    match name {
        "\\d" | "\\dt" if argument.is_empty() => Ok(Command::Ask("show tables".into())),
        "\\d" => Ok(Command::Ask(format!("describe {argument}"))),
        "\\df" => without(Command::Ask("show functions".into())),
        "\\at" if argument == "live" => Ok(Command::At(None)),
        "\\at" => argument
            .parse()
            .map(|seq| Command::At(Some(seq)))
            .map_err(|_| fault("expected a commit's number, or `live`")),
        "\\format" if argument.is_empty() => Ok(Command::Format(None)),
        "\\format" => {
            let format = Format::from_str(argument, true);
            format.map(|format| Command::Format(Some(format))).map_err(|_| fault("expected `table`, `csv` or `json`"))
        }
        "\\timing" => without(Command::Timing),
        "\\?" | "\\h" | "\\help" => without(Command::Help),
        "\\q" | "exit" | "quit" => without(Command::Quit),
        _ => Err(fault("there is no such command")),
    }
}

/// The list of commands.
pub fn help() -> String {
    COMMANDS.iter().map(|(call, what)| format!("{call:<16} {what}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_others_refused() {
        let ask = |sql: &str| Command::Ask(sql.into());
        for (line, command) in [
            ("\\d", ask("show tables")),
            ("\\d;", ask("show tables")),
            ("\\d  a.steps ", ask("describe a.steps")),
            ("\\df", ask("show functions")),
            ("\\at 17", Command::At(Some(17))),
            ("\\at live", Command::At(None)),
            ("\\format CSV", Command::Format(Some(Format::Csv))),
            ("\\format", Command::Format(None)),
            ("\\timing", Command::Timing),
            ("\\?", Command::Help),
            ("\\q", Command::Quit),
            ("exit", Command::Quit),
        ] {
            assert_eq!(parse(line).unwrap(), command, "{line}");
        }
        for (line, says) in [
            ("\\x", "`\\x`: there is no such command\nhint: `\\?` lists the commands"),
            ("\\at", "`\\at`: expected a commit's number, or `live`"),
            ("\\at -1", "`\\at -1`: expected a commit's number"),
            ("\\format xml", "`\\format xml`: expected `table`, `csv` or `json`"),
            ("\\q now", "`\\q` takes nothing behind it"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
        assert!(help().lines().all(|line| line.chars().count() <= 100));
    }
}
