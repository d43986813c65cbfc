//! Reading the answer out of a response, and telling whether it is the right one.

/// Whether `response` answers with `answer`.
///
/// The response's answer is looked for where people put it, in this order: after the last `####`, in the last
/// `\boxed{...}`, as the last number. Numbers are compared by value (`1,200` is `1200.0`), all else word for word without
/// regard to case and surrounding space. An answer that is no number is also right if it is the whole response. Where
/// `answer` is a whole solution, what it puts after `####` or in `\boxed{...}` counts.
pub fn is_correct(response: &str, answer: &str) -> bool {
    let solution = marked(answer).or_else(|| boxed(answer));
    let wanted = normalise(solution.as_deref().unwrap_or(answer));
    if normalise(response) == wanted {
        return true;
    }
    let found = marked(response).or_else(|| boxed(response)).or_else(|| last_number(response));
    found.is_some_and(|found| normalise(&found) == wanted)
}

fn marked(response: &str) -> Option<String> {
    let (_, after) = response.rsplit_once("####")?;
    let line = after.trim().lines().next().unwrap_or_default().trim();
    // "#### 42 apples." is an answer of 42; "#### Paris" is Paris.
    Some(match line.split_whitespace().next() {
        Some(word) if number(word).is_some() => word.to_string(),
        _ => line.to_string(),
    })
}

/// The content of the last `\boxed{...}`, whose braces may nest.
fn boxed(response: &str) -> Option<String> {
    let (_, after) = response.rsplit_once("\\boxed{")?;
    let mut depth = 1;
    for (i, c) in after.char_indices() {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        if depth == 0 {
            return Some(after[..i].to_string());
        }
    }
    None
}

fn last_number(response: &str) -> Option<String> {
    let separates = |c: char| !(c.is_ascii_digit() || matches!(c, '.' | ',' | '-'));
    response.split(separates).rfind(|word| number(word).is_some()).map(str::to_string)
}

fn normalise(text: &str) -> String {
    let text = text.trim().trim_end_matches('.').trim_matches('$').trim();
    match number(text) {
        Some(value) => value.to_string(),
        None => text.to_lowercase(),
    }
}

/// `1,200.50`, `$7` and `-3.` are numbers; `1,2`, a list, is not.
fn number(text: &str) -> Option<f64> {
    let text = text.trim_start_matches('$').trim_end_matches(['.', ',']);
    if text.contains(',') {
        let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
        let whole = digits.split('.').next().unwrap_or_default();
        let mut groups = whole.split(',');
        let first = groups.next().unwrap_or_default();
        if first.is_empty() || first.len() > 3 || groups.any(|group| group.len() != 3) {
            return None;
        }
        return number(&format!("{sign}{}", digits.replace(',', "")));
    }
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-');
    if !text.chars().all(plain) {
        return None;
    }
    // -0 and 0 are one number.
    text.parse::<f64>().ok().map(|value| value + 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_answer_where_people_put_it() {
        for (response, answer) in [
            ("12 + 7 = 19. #### 19", "19"),
            ("#### 3\nno, #### 1,200.", "1200"),
            ("#### 42 apples", "42"),
            ("so \\boxed{\\frac{1}{2}} it is, not 7", "\\frac{1}{2}"),
            ("The answer is -3.", "-3"),
            ("It costs $7.50.", "7.5"),
            ("Paris", " paris. "),
            ("#### Paris", "paris"),
            ("-0", "0"),
            ("19.0", "19"),
            ("It is 72.", "48 / 2 = 24, and 48 + 24 = 72\n#### 72"),
            ("72", "so $x = \\boxed{72}$."),
        ] {
            assert!(is_correct(response, answer), "{response:?} answers {answer:?}");
        }
    }

    #[test]
    fn takes_no_other_answer() {
        for (response, answer) in [
            ("19 #### 18", "19"),
            ("", "0"),
            ("\\boxed{4", "5"),
            ("1,2", "12"),
            ("12", "1"),
            ("#### ", "7"),
            ("London", "Paris"),
            ("48", "48 / 2 = 24, and 48 + 24 = 72\n#### 72"),
        ] {
            assert!(!is_correct(response, answer), "{response:?} does not answer {answer:?}");
        }
    }
}
