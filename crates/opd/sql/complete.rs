//! What a word at the cursor may become.

use super::{
    command::COMMANDS,
    statements::{Place, Scan, split},
};

/// What there is to name.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Tables with their columns; where there are several stores, with the store's name before a point.
    pub tables: Vec<(String, Vec<String>)>,
    /// Functions, the store's own first.
    pub functions: Vec<String>,
}

/// Words of the language that questions are made of.
const KEYWORDS: [&str; 53] = [
    "select",
    "from",
    "where",
    "group by",
    "order by",
    "having",
    "limit",
    "offset",
    "join",
    "left join",
    "cross join",
    "on",
    "using",
    "as",
    "and",
    "or",
    "not",
    "in",
    "is",
    "null",
    "like",
    "between",
    "exists",
    "case",
    "when",
    "then",
    "else",
    "end",
    "cast",
    "distinct",
    "with",
    "union all",
    "union",
    "intersect",
    "except",
    "asc",
    "desc",
    "over",
    "partition by",
    "filter",
    "unnest",
    "values",
    "true",
    "false",
    "explain",
    "describe",
    "show tables",
    "show functions",
    "interval",
    "qualify",
    "lateral",
    "ilike",
    "nulls last",
];

/// Keywords behind which the name of a table stands.
const BEFORE_TABLES: [&str; 4] = ["from", "join", "describe", "desc"];

/// The place where the word begins that ends at `cursor`, and what it may become, the likeliest first.
pub fn complete(names: &Names, text: &str, cursor: usize) -> (usize, Vec<String>) {
    // The statement in which the cursor stands, as far as it is written.
    let (before, behind) = text.split_at(cursor);
    let written = split(before).1.trim_start();
    let start = word_start(before);
    let word = before[start..].to_lowercase();
    let line = before.rsplit('\n').next().unwrap_or_default().trim_start();
    if line.starts_with('\\') {
        return (start, of_command(names, line, &word));
    }
    if in_text(written) {
        return (start, Vec::new());
    }
    let fits = |name: &&str| name.to_lowercase().starts_with(&word);
    let last_word = words(&written[..written.len() - (cursor - start).min(written.len())]).pop();
    let tables = || names.tables.iter().map(|(table, _)| table.as_str());
    if last_word.is_some_and(|last| BEFORE_TABLES.contains(&last.to_lowercase().as_str())) {
        return (start, listed(stores(names).iter().map(String::as_str).chain(tables()).filter(fits)));
    }
    // Up to the next `;`, what stands behind the cursor is part of the question too: its tables are often named there.
    let question = format!("{written} {}", behind.split(';').next().unwrap_or_default());
    let named = tables_named(names, &question);
    if let Some((of, _)) = word.rsplit_once('.') {
        let columns = named.iter().filter(|(alias, _)| *alias == of).flat_map(|(_, columns)| columns.iter());
        let columns: Vec<String> = columns.map(|column| format!("{of}.{column}")).collect();
        return (start, listed(columns.iter().map(String::as_str).chain(tables()).filter(fits)));
    }
    if word.is_empty() && named.is_empty() {
        return (start, Vec::new());
    }
    let of_named = named.iter().flat_map(|(_, columns)| columns.iter().map(String::as_str));
    let of_others = names.tables.iter().flat_map(|(_, columns)| columns.iter().map(String::as_str));
    let nearby: Vec<&str> = of_named.filter(fits).collect();
    if word.is_empty() {
        return (start, listed(nearby.into_iter()));
    }
    let others = names.functions.iter().map(String::as_str).chain(KEYWORDS).chain(tables());
    let found = listed(nearby.into_iter().chain(others.filter(fits)));
    // Columns of tables that the question does not name come to help where nothing else does.
    match found.is_empty() {
        true => (start, listed(of_others.filter(fits))),
        false => (start, found),
    }
}

fn of_command(names: &Names, line: &str, word: &str) -> Vec<String> {
    let mut parts = line.split_whitespace();
    let command = parts.next().unwrap_or_default();
    let is_first = !line.contains(char::is_whitespace);
    let fits = |name: &&str| name.starts_with(word);
    match command {
        _ if is_first => {
            listed(COMMANDS.iter().map(|(call, _)| call.split(' ').next().unwrap_or_default()).filter(fits))
        }
        "\\d" => listed(names.tables.iter().map(|(table, _)| table.as_str()).filter(fits)),
        "\\format" => listed(["table", "csv", "json"].into_iter().filter(fits)),
        "\\at" => listed(["live"].into_iter().filter(fits)),
        _ => Vec::new(),
    }
}

/// The names of the stores, with a point, where there are several.
fn stores(names: &Names) -> Vec<String> {
    let mut stores: Vec<String> = names
        .tables
        .iter()
        .filter_map(|(table, _)| table.split_once('.'))
        .map(|(store, _)| format!("{store}."))
        .collect();
    stores.dedup();
    stores
}

/// The tables that `question` names, by the names and aliases under which it may name their columns.
fn tables_named<'a>(names: &'a Names, question: &str) -> Vec<(String, &'a [String])> {
    let words: Vec<String> = words(question).iter().map(|word| word.to_lowercase()).collect();
    let mut named = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let Some((table, columns)) = names.tables.iter().find(|(table, _)| table == word) else { continue };
        let mut after = words[i + 1..].iter().map(String::as_str);
        let alias = match after.next() {
            Some("as") => after.next(),
            Some(other) if !KEYWORDS.iter().any(|keyword| keyword.split(' ').next() == Some(other)) => Some(other),
            _ => None,
        };
        named.push((table.rsplit('.').next().unwrap_or(table).to_string(), columns.as_slice()));
        named.extend(alias.map(|alias| (alias.to_string(), columns.as_slice())));
        named.push((table.clone(), columns.as_slice()));
    }
    named
}

/// The words of the code in `text`, names with points whole.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut begun = None;
    let ends = [(text.len(), Place::Code, ' ')];
    for (at, place, c) in Scan::new(text).chain(ends) {
        let is_part = place == Place::Code && is_word(c);
        match (begun, is_part) {
            (None, true) => begun = Some(at),
            (Some(start), false) => {
                words.push(&text[start..at]);
                begun = None;
            }
            _ => {}
        }
    }
    words
}

fn word_start(before: &str) -> usize {
    before.char_indices().rev().take_while(|(_, c)| is_word(*c) || *c == '\\').last().map_or(before.len(), |(at, _)| at)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

/// Whether what follows `text` would be in a string or a comment.
fn in_text(text: &str) -> bool {
    // One more character is in what the last one left open.
    let probe = format!("{text}x");
    Scan::new(&probe).last().is_some_and(|(_, place, _)| place != Place::Code)
}

/// Each once, in the order given.
fn listed<'a>(found: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    for name in found {
        if !list.iter().any(|known| known == name) {
            list.push(name.into());
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(prefix: &str) -> Names {
        let table = |name: &str, columns: &[&str]| {
            (format!("{prefix}{name}"), columns.iter().map(|column| column.to_string()).collect())
        };
        Names {
            tables: vec![
                table("rollouts", &["rollout_id", "prompt_id", "source"]),
                table("scores", &["rollout_id", "score_set"]),
                table("steps", &["step", "reverse_kl", "rows"]),
            ],
            functions: ["reverse_kl", "ess", "round", "avg"].map(String::from).to_vec(),
        }
    }

    /// What `|` in `text` may become.
    fn completed(names: &Names, text: &str) -> Vec<String> {
        let cursor = text.find('|').unwrap();
        let (start, found) = complete(names, &text.replace('|', ""), cursor);
        assert!(start <= cursor);
        found
    }

    #[test]
    fn a_word_becomes_what_fits_its_place() {
        let names = names("");
        for (text, expected) in [
            ("select * from |", &["rollouts", "scores", "steps"][..]),
            ("select * from s|", &["scores", "steps"]),
            ("SELECT * FROM r|", &["rollouts"]),
            ("select * from rollouts join s|", &["scores", "steps"]),
            ("describe st|", &["steps"]),
            // Columns of the tables that are named, before or behind, then functions, keywords and tables.
            ("select ro| from rollouts", &["rollout_id", "round", "rollouts"]),
            ("select * from steps where r|", &["reverse_kl", "rows", "round", "rollouts"]),
            ("select | from steps", &["step", "reverse_kl", "rows"]),
            ("select s.r| from steps s", &["s.reverse_kl", "s.rows"]),
            ("select a.s| from rollouts as a, steps as b", &["a.source"]),
            ("select scores.s| from scores", &["scores.score_set"]),
            ("sel|", &["select"]),
            ("select 1; sel|", &["select"]),
            ("select x from steps gro|", &["group by"]),
            ("select ev|", &[]),
            // Nobody named the table yet.
            ("select prompt_|", &["prompt_id"]),
            ("select 's|", &[]),
            ("select 1 -- s|", &[]),
            ("\\d st|", &["steps"]),
            ("\\ti|", &["\\timing"]),
            ("\\format c|", &["csv"]),
        ] {
            assert_eq!(completed(&names, text), expected, "{text}");
        }
    }

    #[test]
    fn with_several_stores_a_table_begins_with_its_store() {
        let mut all = names("a.");
        all.tables.extend(names("b.").tables);
        assert_eq!(completed(&all, "select * from |")[..2], ["a.", "b."]);
        assert_eq!(completed(&all, "select * from b.s|"), ["b.scores", "b.steps"]);
        assert_eq!(completed(&all, "select x.r| from a.steps x join b.steps y"), ["x.reverse_kl", "x.rows"]);
        assert_eq!(completed(&all, "select steps.ro| from a.steps"), ["steps.rows"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}", at in 0usize..40) {
            let cursor = (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            let (start, _) = complete(&names(""), &text, cursor);
            prop_assert!(start <= cursor && text.is_char_boundary(start));
        }
    }
}
