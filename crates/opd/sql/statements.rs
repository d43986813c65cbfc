//! Where one input to the shell ends and the next begins: statements end with `;`, commands with their line.

/// One thing that was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// SQL, without its `;`.
    Statement(String),
    /// A line that begins with `\`.
    Command(String),
}

/// The whole inputs of `text`, and what follows them: blank, or the beginning of a statement.
pub fn split(text: &str) -> (Vec<Input>, &str) {
    let (mut inputs, mut rest) = (Vec::new(), text);
    loop {
        let body = rest.trim_start();
        if body.starts_with('\\') || matches!(first_line(body).trim(), "exit" | "quit") {
            let line = first_line(body);
            inputs.push(Input::Command(line.trim().into()));
            rest = &body[line.len()..];
            continue;
        }
        let Some(end) = end_of_statement(rest) else { return (inputs, rest) };
        if !is_blank(&rest[..end]) {
            inputs.push(Input::Statement(rest[..end].trim().into()));
        }
        rest = &rest[end + 1..];
    }
}

/// Whether there is nothing in `text` but space and comments.
pub fn is_blank(text: &str) -> bool {
    let mut scan = Scan::new(text);
    scan.all(|(_, place, c)| place == Place::Comment || c.is_whitespace())
}

fn first_line(text: &str) -> &str {
    text.split('\n').next().unwrap_or_default()
}

/// The place of the first `;` that is in no string, name or comment.
fn end_of_statement(text: &str) -> Option<usize> {
    Scan::new(text).find(|(_, place, c)| *place == Place::Code && *c == ';').map(|(at, ..)| at)
}

/// What a character is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Code,
    /// Between `'` or `"`, these included.
    Quoted(char),
    /// Behind `--`, or between `/*` and `*/`, these included.
    Comment,
}

/// Goes through SQL and says of each character where it is, with its offset.
pub(super) struct Scan<'a> {
    text: &'a str,
    at: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Code,
    Quoted(char),
    Line,
    /// How deep, and how many characters still belong to the mark that was seen.
    Block(usize, usize),
}

impl<'a> Scan<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, state: State::Code }
    }
}

impl Iterator for Scan<'_> {
    type Item = (usize, Place, char);

    fn next(&mut self) -> Option<Self::Item> {
        let (at, rest) = (self.at, &self.text[self.at..]);
        let c = rest.chars().next()?;
        self.at += c.len_utf8();
        let place;
        (place, self.state) = match self.state {
            State::Code if c == '\'' || c == '"' => (Place::Quoted(c), State::Quoted(c)),
            State::Code if rest.starts_with("--") => (Place::Comment, State::Line),
            State::Code if rest.starts_with("/*") => (Place::Comment, State::Block(1, 1)),
            State::Code => (Place::Code, State::Code),
            // A doubled quote ends one string and begins the next, which is the same here.
            State::Quoted(quote) if c == quote => (Place::Quoted(quote), State::Code),
            State::Quoted(quote) => (Place::Quoted(quote), State::Quoted(quote)),
            State::Line if c == '\n' => (Place::Code, State::Code),
            State::Line => (Place::Comment, State::Line),
            State::Block(0, 1) => (Place::Comment, State::Code),
            State::Block(depth, 1) => (Place::Comment, State::Block(depth, 0)),
            State::Block(depth, _) if rest.starts_with("*/") => (Place::Comment, State::Block(depth - 1, 1)),
            State::Block(depth, _) if rest.starts_with("/*") => (Place::Comment, State::Block(depth + 1, 1)),
            State::Block(depth, _) => (Place::Comment, State::Block(depth, 0)),
        };
        Some((at, place, c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn statement(text: &str) -> Input {
        Input::Statement(text.into())
    }

    #[test]
    fn a_statement_ends_with_its_semicolon() {
        for (text, inputs, rest) in [
            ("", vec![], ""),
            ("select 1", vec![], "select 1"),
            ("select 1;", vec![statement("select 1")], ""),
            (" select 1 ; select 2;\nselect", vec![statement("select 1"), statement("select 2")], "\nselect"),
            ("select ';' ;", vec![statement("select ';'")], ""),
            ("select 'it''s; so';", vec![statement("select 'it''s; so'")], ""),
            ("select \"a;b\" from t;", vec![statement("select \"a;b\" from t")], ""),
            ("select 1 -- one; 'two\n;", vec![statement("select 1 -- one; 'two")], ""),
            ("select /* ; ' */ 1;", vec![statement("select /* ; ' */ 1")], ""),
            ("select /* /* ; */ ; */ 1; x", vec![statement("select /* /* ; */ ; */ 1")], " x"),
            ("select /*/ ; */ 1;", vec![statement("select /*/ ; */ 1")], ""),
            ("select 'open; ", vec![], "select 'open; "),
            ("select /* open; ", vec![], "select /* open; "),
            (";; -- nothing\n ; /* nor */ ;", vec![], ""),
            ("select 1 - -2;", vec![statement("select 1 - -2")], ""),
        ] {
            assert_eq!(split(text), (inputs, rest), "{text}");
        }
    }

    #[test]
    fn a_command_ends_with_its_line() {
        let command = |text: &str| Input::Command(text.into());
        for (text, inputs, rest) in [
            ("\\d steps", vec![command("\\d steps")], ""),
            ("  \\timing \nselect 1;\n\\q\n", vec![command("\\timing"), statement("select 1"), command("\\q")], "\n"),
            ("quit", vec![command("quit")], ""),
            ("exit \n", vec![command("exit")], "\n"),
            ("select '\n\\d'", vec![], "select '\n\\d'"),
        ] {
            assert_eq!(split(text), (inputs, rest), "{text}");
        }
    }

    #[test]
    fn space_and_comments_are_blank() {
        for (text, blank) in [
            ("", true),
            (" -- x; y\n\t/* z */", true),
            ("/* open", true),
            ("-- x\n1", false),
            ("''", false),
            ("- -", false),
        ] {
            assert_eq!(is_blank(text), blank, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_comes_apart_again(
            pieces in prop::collection::vec("(select|[a-z]|'[a-z;-]*'|\"[a-z;]*\"|/\\*[a-z;' ]*\\*/|--[a-z;']*\n| |\n)*[a-z0-9]", 0..6),
        ) {
            let text: String = pieces.iter().map(|piece| format!("{piece};\n")).collect();
            prop_assume!(!text.contains("exit") && !text.contains("quit"));
            let expected: Vec<Input> = pieces.iter().map(|piece| statement(piece.trim())).collect();
            let (inputs, rest) = split(&text);
            prop_assert_eq!(inputs, expected);
            prop_assert_eq!(rest.trim(), "");
        }

        #[test]
        fn no_text_makes_it_panic_or_lose_anything(text in ".{0,60}") {
            let (inputs, rest) = split(&text);
            prop_assert!(text.ends_with(rest));
            let kept: usize = inputs.iter().map(|input| match input {
                Input::Statement(text) | Input::Command(text) => text.len(),
            }).sum();
            prop_assert!(kept + rest.len() <= text.len());
        }
    }
}
