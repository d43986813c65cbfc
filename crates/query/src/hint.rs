//! The nearest name to a misspelt one.

/// The name of `names` that `word` was most likely meant to be, if one is near enough.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let near = |name: &&str| {
        let close = strsim::damerau_levenshtein(&word, name) <= 1 + name.len() / 5;
        // `score` for `scores`, `version` for `policy_version`.
        close || (word.len() > 3 && (name.contains(&word) || word.contains(*name)))
    };
    names.filter(near).min_by_key(|name| strsim::damerau_levenshtein(&word, name))
}

/// "did you mean ...?" for a name of `names`, or all of them if none is near.
pub(crate) fn did_you_mean<'a>(word: &str, what: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(word, names.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("{what}: {}", names.collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let names = ["policy_version", "staleness", "step", "seq", "scores", "scored"];
        let find = |word| nearest(word, names.into_iter());
        assert_eq!(find("polcy_version"), Some("policy_version"));
        assert_eq!(find("version"), Some("policy_version"));
        assert_eq!(find("Stalenes"), Some("staleness"));
        assert_eq!(find("score"), Some("scores"));
        assert_eq!(find("setp"), Some("step"));
        assert_eq!(find("temperature"), None);
        assert_eq!(did_you_mean("x", "tables", ["a_table", "b_table"].into_iter()), "tables: a_table, b_table");
    }
}
