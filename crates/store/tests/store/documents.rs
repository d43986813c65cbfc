//! What the documents say of the log is what the program reads.

use record::Commit;
use std::collections::BTreeSet;

#[test]
fn every_example_of_a_commit_reads_and_says_all_there_is() {
    let text = include_str!("../../../../schemas/commit.md");
    let examples: Vec<&str> = text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let mut kinds = BTreeSet::new();
    for example in examples {
        let commit = Commit::from_json(example.as_bytes()).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&commit.to_json().unwrap()).unwrap();
        let documented: serde_json::Value = serde_json::from_str(example).unwrap();
        assert_eq!(written, documented);
        kinds.insert(commit.event.kind());
    }
    let all = [
        "archive",
        "claim",
        "config",
        "drop",
        "eval",
        "finish",
        "pin",
        "retire",
        "rollouts",
        "run",
        "score_set",
        "scores",
        "step",
        "unpin",
    ];
    assert!(kinds.into_iter().eq(all));
}
