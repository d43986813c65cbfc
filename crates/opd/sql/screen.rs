//! A text with a prompt as a terminal shows it: which characters, in which rows, and where the cursor stands.

/// What is drawn, from the first column of the prompt's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// The characters; rows are ended by hand, so that no terminal's own way to wrap a row matters.
    pub text: String,
    /// (row, column) behind the last character, from 0.
    pub end: (usize, usize),
    /// (row, column) of the cursor.
    pub cursor: (usize, usize),
}

/// Draws `text`, whose cursor is at byte `cursor`, behind `prompt` on a terminal of `width` columns.
pub fn draw(prompt: &str, text: &str, cursor: usize, width: usize) -> Drawn {
    let mut drawn = Drawn { text: String::new(), end: (0, 0), cursor: (0, 0) };
    prompt.chars().for_each(|c| drawn.put(c, width));
    // The lines of a statement stand below each other.
    let indent = drawn.end.1;
    for (at, c) in text.char_indices() {
        if at == cursor {
            drawn.cursor = drawn.end;
        }
        match c {
            '\n' => {
                drawn.next_row();
                (0..indent).for_each(|_| drawn.put(' ', width));
            }
            c if c.is_control() => drawn.put('�', width),
            c => drawn.put(c, width),
        }
    }
    if cursor >= text.len() {
        drawn.cursor = drawn.end;
    }
    drawn
}

impl Drawn {
    /// Appends a character, and ends the row that is full with it: the cursor always stands on a column.
    fn put(&mut self, c: char, width: usize) {
        let columns = columns(c);
        if self.end.1 + columns > width.max(2) {
            self.next_row();
        }
        self.text.push(c);
        self.end.1 += columns;
        if self.end.1 >= width.max(2) {
            self.next_row();
        }
    }

    fn next_row(&mut self) {
        self.text.push_str("\r\n");
        self.end = (self.end.0 + 1, 0);
    }
}

/// Columns that a character takes: wide ones of East Asia and pictures two, marks on others none.
fn columns(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 => 2,
        0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// `choices` in columns of a terminal of `width`, at most `most` of them.
pub fn table(choices: &[String], width: usize, most: usize) -> String {
    let shown = &choices[..choices.len().min(most)];
    let column = shown.iter().map(|choice| choice.chars().count()).max().unwrap_or(0) + 2;
    let lines = shown.chunks((width / column).max(1)).map(|line| {
        let cells: String = line.iter().map(|choice| format!("{choice:column$}")).collect();
        format!("{}\r\n", cells.trim_end())
    });
    let more = choices.len() - shown.len();
    let rest = if more > 0 { format!("and {more} more\r\n") } else { String::new() };
    lines.collect::<String>() + &rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_stands_behind_its_prompt() {
        let at = |text: &str, cursor: usize, width: usize| {
            let drawn = draw("> ", text, cursor, width);
            (drawn.text, drawn.end, drawn.cursor)
        };
        assert_eq!(at("abc", 1, 80), ("> abc".into(), (0, 5), (0, 3)));
        assert_eq!(at("a\nb", 3, 80), ("> a\r\n  b".into(), (1, 3), (1, 3)));
        assert_eq!(at("abcd", 4, 6), ("> abcd\r\n".into(), (1, 0), (1, 0)));
        assert_eq!(at("abcde", 2, 6), ("> abcd\r\ne".into(), (1, 1), (0, 4)));
        // A wide character does not stand astride.
        assert_eq!(at("abc字", 0, 6), ("> abc\r\n字".into(), (1, 2), (0, 2)));
        assert_eq!(at("e\u{301}\x07", 0, 80), ("> e\u{301}�".into(), (0, 4), (0, 2)));
    }

    #[test]
    fn choices_stand_in_columns() {
        let choices = ["a", "bcd", "e"].map(String::from);
        assert_eq!(table(&choices, 12, 9), "a    bcd\r\ne\r\n");
        assert_eq!(table(&choices, 3, 1), "a\r\nand 2 more\r\n");
    }

    proptest! {
        #[test]
        fn no_row_is_longer_than_the_terminal(text in "(.|\n|字){0,60}", at in 0usize..60, width in 4usize..40) {
            let cursor = (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            let drawn = draw("> ", &text, cursor, width);
            for row in drawn.text.split("\r\n") {
                prop_assert!(row.chars().map(columns).sum::<usize>() <= width, "{row:?}");
            }
            prop_assert_eq!(drawn.end.0, drawn.text.matches("\r\n").count());
            prop_assert!(drawn.cursor <= drawn.end && drawn.cursor.1 < width);
        }
    }
}
