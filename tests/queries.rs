//! The queries of docs/queries.md.

use crate::support::{Small, opd, succeeded, text};
use std::collections::BTreeSet;

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/queries.md");
    std::fs::read_to_string(path).unwrap()
}

/// What stands between lines of "```sql" and "```".
fn queries(page: &str) -> Vec<&str> {
    page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap().trim()).collect()
}

#[test]
fn the_page_names_what_there_is_and_every_query_of_it_has_an_answer() {
    let small = Small::new();
    succeeded(&small.run(&["learn.max_staleness=1"]));
    let page = page();
    let queries = queries(&page);
    assert!(queries.len() >= 10, "{}", queries.len());
    for query in queries {
        assert!(!small.sql(query).is_empty(), "no rows: {query}");
    }
    let named: BTreeSet<&str> = page.split('`').collect();
    for line in small.sql("show tables") {
        let table = line.split(',').next().unwrap();
        assert!(named.contains(table), "docs/queries.md does not name the table `{table}`");
    }
    let output = opd().args(["sql", &small.store(), "show functions", "--format", "json"]).output().unwrap();
    succeeded(&output);
    let functions: serde_json::Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    for function in functions.as_array().unwrap() {
        let call = function["function"].as_str().unwrap();
        assert!(named.contains(call), "docs/queries.md does not name the function `{call}`");
    }
}
