//! The text that is being typed, with its cursor, and what keys make of it. Nothing here touches a terminal.

use super::keys::Key;

/// What an editor needs to know of the language.
pub trait Language {
    /// Whether `text` can be taken, or its statement goes on.
    fn is_whole(&self, text: &str) -> bool;
    /// Where the word at `cursor` begins, and what it may become.
    fn complete(&self, text: &str, cursor: usize) -> (usize, Vec<String>);
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The text or the cursor may have changed.
    Edited,
    /// The text is whole.
    Taken,
    /// The word at the cursor may become any of these.
    Choices(Vec<String>),
    /// The screen is to be cleared.
    Cleared,
    /// The text is given up.
    Dropped,
    /// The end was asked for.
    Left,
}

/// A text, a cursor in it, and earlier texts.
#[derive(Clone, Debug, Default)]
pub struct Line {
    text: String,
    /// A byte offset, between characters.
    cursor: usize,
    earlier: Vec<String>,
    /// Which of the earlier texts is shown; none of them at its end.
    shown: usize,
    /// What was typed before an earlier text was looked at.
    draft: String,
}

impl Line {
    /// Empty, with what was typed before, the latest last.
    pub fn after(earlier: Vec<String>) -> Self {
        Self { shown: earlier.len(), earlier, ..Self::default() }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The cursor's place in it, in bytes.
    pub fn cursor(&self) -> usize {
        self.cursor
    }

    /// What a key does.
    pub fn press(&mut self, key: Key, language: &dyn Language) -> Change {
        match key {
            Key::Char(c) => self.insert(c.encode_utf8(&mut [0; 4])),
            Key::Enter if language.is_whole(&self.text) => return Change::Taken,
            Key::Enter => self.insert("\n"),
            Key::Tab => return self.complete(language),
            Key::Backspace => self.cut(self.left()..self.cursor),
            Key::Delete => self.cut(self.cursor..self.right()),
            Key::Left => self.cursor = self.left(),
            Key::Right => self.cursor = self.right(),
            Key::Home => self.cursor = self.line_start(),
            Key::End => self.cursor = self.line_end(),
            Key::CutToEnd => self.cut(self.cursor..self.line_end()),
            Key::CutToStart => self.cut(self.line_start()..self.cursor),
            Key::CutWord => self.cut(self.word_start()..self.cursor),
            Key::Up => self.show(self.shown.saturating_sub(1)),
            Key::Down => self.show((self.shown + 1).min(self.earlier.len())),
            Key::Clear => return Change::Cleared,
            Key::Interrupt => return Change::Dropped,
            Key::Leave if self.text.is_empty() => return Change::Left,
            Key::Leave => self.cut(self.cursor..self.right()),
            Key::Other => {}
        }
        Change::Edited
    }

    fn insert(&mut self, text: &str) {
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
    }

    fn cut(&mut self, range: std::ops::Range<usize>) {
        self.cursor = range.start;
        self.text.replace_range(range, "");
    }

    fn left(&self) -> usize {
        self.text[..self.cursor].char_indices().next_back().map_or(0, |(at, _)| at)
    }

    fn right(&self) -> usize {
        self.cursor + self.text[self.cursor..].chars().next().map_or(0, char::len_utf8)
    }

    fn line_start(&self) -> usize {
        self.text[..self.cursor].rfind('\n').map_or(0, |at| at + 1)
    }

    fn line_end(&self) -> usize {
        self.text[self.cursor..].find('\n').map_or(self.text.len(), |at| self.cursor + at)
    }

    /// The start of the word before the cursor, as a shell has it: between spaces.
    fn word_start(&self) -> usize {
        let word = self.text[..self.cursor].trim_end();
        word.rfind(char::is_whitespace).map_or(0, |at| at + word[at..].chars().next().map_or(0, char::len_utf8))
    }

    fn show(&mut self, which: usize) {
        if which == self.shown {
            return;
        }
        if self.shown == self.earlier.len() {
            self.draft = std::mem::take(&mut self.text);
        }
        self.shown = which;
        self.text = self.earlier.get(which).unwrap_or(&self.draft).clone();
        self.cursor = self.text.len();
    }

    fn complete(&mut self, language: &dyn Language) -> Change {
        let (start, choices) = language.complete(&self.text, self.cursor);
        let common = common_start(&choices);
        let word = &self.text[start..self.cursor];
        if common.len() > word.len() || (choices.len() == 1 && common != word) {
            self.cut(start..self.cursor);
            self.insert(&common);
            return Change::Edited;
        }
        if choices.len() > 1 { Change::Choices(choices) } else { Change::Edited }
    }
}

/// What all of `texts` begin with.
fn common_start(texts: &[String]) -> String {
    let Some((first, others)) = texts.split_first() else { return String::new() };
    let same = |text: &String, common: usize| {
        first[..common]
            .char_indices()
            .zip(text.chars())
            .take_while(|((_, a), b)| a == b)
            .last()
            .map_or(0, |((at, a), _)| at + a.len_utf8())
    };
    first[..others.iter().fold(first.len(), |common, text| same(text, common))].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Statements end with `;`, words become one of three.
    struct Tiny;

    impl Language for Tiny {
        fn is_whole(&self, text: &str) -> bool {
            text.ends_with(';')
        }

        fn complete(&self, text: &str, cursor: usize) -> (usize, Vec<String>) {
            let start = text[..cursor].rfind(|c: char| !c.is_ascii_alphabetic()).map_or(0, |at| at + 1);
            let start = (start..=cursor).find(|at| text.is_char_boundary(*at)).unwrap_or(cursor);
            let word = &text[start..cursor];
            (
                start,
                ["select", "selection", "steps"]
                    .map(String::from)
                    .into_iter()
                    .filter(|name| name.starts_with(word))
                    .collect(),
            )
        }
    }

    fn typed(line: &mut Line, keys: &[Key]) -> Change {
        keys.iter().fold(Change::Edited, |_, key| line.press(*key, &Tiny))
    }

    fn chars(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    #[test]
    fn keys_edit() {
        use Key::*;
        for (keys, expected, cursor) in [
            (chars("abc"), "abc", 3),
            ([chars("ac"), vec![Left, Char('é')]].concat(), "aéc", 3),
            ([chars("aéc"), vec![Left, Backspace]].concat(), "ac", 1),
            ([chars("abc"), vec![Home, Delete, End, Char('d')]].concat(), "bcd", 3),
            ([chars("one two  "), vec![CutWord]].concat(), "one ", 4),
            ([chars("one"), vec![Enter], chars("two"), vec![CutToStart]].concat(), "one\n", 4),
            ([chars("one"), vec![Left, Left, CutToEnd]].concat(), "o", 1),
            ([chars("ab"), vec![Left, Leave, Other, Right]].concat(), "a", 1),
        ] {
            let mut line = Line::default();
            assert_eq!(typed(&mut line, &keys), Change::Edited, "{keys:?}");
            assert_eq!((line.text(), line.cursor()), (expected, cursor), "{keys:?}");
        }
    }

    #[test]
    fn a_text_is_taken_when_it_is_whole() {
        let mut line = Line::default();
        assert_eq!(typed(&mut line, &[chars("select"), vec![Key::Enter]].concat()), Change::Edited);
        assert_eq!(typed(&mut line, &[chars("1;"), vec![Key::Enter]].concat()), Change::Taken);
        assert_eq!(line.text(), "select\n1;");
        assert_eq!(typed(&mut line, &[Key::Interrupt]), Change::Dropped);
        assert_eq!(typed(&mut Line::default(), &[Key::Leave]), Change::Left);
    }

    #[test]
    fn a_word_is_completed_as_far_as_the_choices_agree() {
        let mut line = Line::default();
        assert_eq!(typed(&mut line, &[chars("sel"), vec![Key::Tab]].concat()), Change::Edited);
        assert_eq!(line.text(), "select");
        let choices = ["select", "selection"].map(String::from).to_vec();
        assert_eq!(typed(&mut line, &[Key::Tab]), Change::Choices(choices));
        assert_eq!(typed(&mut line, &[chars(" st"), vec![Key::Tab]].concat()), Change::Edited);
        assert_eq!(line.text(), "select steps");
        typed(&mut line, &[chars(" x"), vec![Key::Tab]].concat());
        assert_eq!(line.text(), "select steps x");
    }

    #[test]
    fn earlier_texts_are_a_key_away_and_the_draft_is_kept() {
        use Key::*;
        let mut line = Line::after(vec!["one".into(), "two".into()]);
        typed(&mut line, &chars("draft"));
        for (key, text) in [(Up, "two"), (Up, "one"), (Up, "one"), (Down, "two"), (Down, "draft"), (Down, "draft")] {
            typed(&mut line, &[key]);
            assert_eq!((line.text(), line.cursor()), (text, text.len()), "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn no_keys_make_it_panic(keys in prop::collection::vec(prop_oneof![
            any::<char>().prop_map(Key::Char),
            prop::sample::select(vec![
                Key::Enter, Key::Tab, Key::Backspace, Key::Delete, Key::Left, Key::Right, Key::Up, Key::Down, Key::Home,
                Key::End, Key::CutToEnd, Key::CutToStart, Key::CutWord, Key::Leave,
            ]),
        ], 0..40)) {
            let mut line = Line::after(vec!["a\né".into(), "select".into()]);
            for key in keys {
                line.press(key, &Tiny);
                prop_assert!(line.text().is_char_boundary(line.cursor()));
            }
        }
    }
}
