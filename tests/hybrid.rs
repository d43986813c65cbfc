//! The hybrid estimator, draws of the tail and draws of the teacher, through the program: run, stored, refused by name.

use crate::support::{Small, opd, succeeded, text};

const HYBRID: &str = "learn.estimator={ name = \"reverse_kl_hybrid\", top_k = 4, draws = 4 }";

fn learns(small: &Small, sets: &[&str], says: &[&str]) {
    let output = small.command("learn", sets).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{sets:?}: {said}");
    assert!(says.iter().all(|words| said.contains(words)), "{sets:?} should say {says:?}: {said}");
}

#[test]
fn a_run_that_keeps_draws_of_the_tail_alone() {
    let small = Small::new();
    let sets = [HYBRID, "rollout.draws_kept=tail", "rollout.top_k_floor=0.01", "learn.steps=2", "score.draws=3"];
    succeeded(&small.run(&sets));
    // m at every position, the draws inside the top-k nowhere, and a reverse KL all the same.
    let of_rows = "with p as (select unnest(draws_taken) as m, unnest(draw_counts) as n, unnest(draw_ids) as ids, \
        unnest(sampler_top_ids) as top, unnest(response_ids) as token from rollouts) ";
    let all = small.sql(&format!("{of_rows} select min(m), max(m), count(*) from p"));
    let tokens = small.sql("select sum(cardinality(response_ids)) from rollouts");
    assert_eq!(all, [format!("4,4,{}", tokens[0])]);
    assert_eq!(small.sql(&format!("{of_rows} select count(*) from p where array_has_any(ids, top)")), ["0"]);
    assert_ne!(small.sql(&format!("{of_rows} select count(*) from p where array_length(n) > 0")), ["0"]);
    let reported = "select count(*) from (select unnest(reverse_kl) as kl from step_records) where isnan(kl)";
    assert_eq!(small.sql(reported), ["0"]);
    let of_draws = "select sum(cast(unequal as int)), count(*) from (select cardinality(a) <> cardinality(b) as unequal from \
        (select unnest(teacher_draw_ids) as a, unnest(teacher_draw_counts) as b from scores))";
    assert_eq!(small.sql(of_draws), [format!("0,{}", tokens[0])]);

    // Who would read all draws is refused before anything is done: by `opd learn` on the pipeline, by `opd sft` on the store.
    let mc = "learn.estimator={ name = \"reverse_kl_mc\", draws = 4 }";
    learns(
        &small,
        &[&sets[1..], &[mc]].concat(),
        &["reverse_kl_mc", "reads all draws", "rollout.draws_kept is `tail`"],
    );
    learns(&small, &[HYBRID, "learn.steps=2"], &["belongs to another run", "score sets", "draws_kept: Tail"]);
    let config = format!(
        "model = \"student\"\nscores = {{ store = '{}' }}\nestimator = {{ name = \"reverse_kl_mc\", draws = 4 }}\n\
         steps = 2\nrows_per_step = 8\nthreads = 1\n",
        small.store()
    );
    std::fs::write(small.path("sft.toml"), config).unwrap();
    let sft = |estimator: &str| {
        let set = format!("estimator={estimator}");
        opd().arg("sft").arg(small.path("sft.toml")).arg("--out").arg(small.path("out")).arg("--set").arg(set).output()
    };
    for (estimator, says) in [
        ("{ name = \"reverse_kl_mc\", draws = 4 }", ["`draw_ids` of the tail alone", "`main`", "reads all draws"]),
        (
            "{ name = \"reverse_kl_hybrid\", top_k = 3, draws = 4 }",
            ["a head of 3 ids", "lie outside 4", "set estimator.top_k = 4"],
        ),
        (
            "{ name = \"reverse_kl_hybrid\", top_k = 9, draws = 4 }",
            ["reads 9 of `sampler_top_ids`", "score set `main`", "keeps 4"],
        ),
        (
            "{ name = \"forward_kl_mc\", draws = 5, from = \"teacher\" }",
            ["reads 5 of `teacher_draw_ids`", "score set `main`", "keeps 3"],
        ),
    ] {
        let output = sft(estimator).unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{estimator}: {said}");
        assert!(says.iter().all(|words| said.contains(words)) && said.contains("hint:"), "{estimator}: {said}");
        assert!(!small.path("out").exists());
    }
    for estimator in [
        "{ name = \"reverse_kl_hybrid\", top_k = 4, draws = 4, head = \"union\", baseline = \"leave_one_out\" }",
        "{ name = \"forward_kl_mc\", draws = 3, from = \"teacher\" }",
    ] {
        succeeded(&sft(estimator).unwrap());
    }
}

/// The teacher itself beside the learner: nothing but the rows is read of the store, and resuming loads it again.
#[test]
fn a_run_with_the_teacher_beside_the_learner() {
    let small = Small::new();
    let estimator = "learn.estimator={ name = \"exact\", divergence = \"reverse_kl\" }";
    let bare = ["rollout.draws=0", "rollout.top_k_max=0", "score.top_k_max=0", "learn.checkpoint_every=8", estimator];
    succeeded(&small.run(&[&bare[..], &["learn.steps=4"]].concat()));
    assert_eq!(small.sql("select count(*) from steps where loss > 0 and abs(loss - reverse_kl) < 1e-6"), ["4"]);
    assert_eq!(small.sql("select count(*) from step_records where forward_kl is null"), ["0"]);

    let other = Small::new().with_two_teachers();
    let output = other.run(&[estimator]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the teacher beside the learner; the pipeline has 2") && said.contains("hint:"), "{said}");
    learns(
        &small,
        &[&bare[..4], &["learn.estimator={ name = \"exact\", divergence = \"jsd\", alpha = 0.5 }"]].concat(),
        &["estimator.alpha", "no such share"],
    );
}

/// No top-k of the teacher, no draws of the sampler: draws of the teacher alone are enough.
#[test]
fn a_run_on_draws_of_the_teacher_alone() {
    let small = Small::new();
    let estimator = "learn.estimator={ name = \"forward_kl_mc\", draws = 4, from = \"teacher\" }";
    let bare = ["rollout.draws=0", "rollout.top_k_max=0", "score.top_k_max=0", "score.draws=4", "learn.steps=2"];
    succeeded(&small.run(&[&bare[..], &[estimator, "rollout.top_p=0.9"]].concat()));
    assert_eq!(small.sql("select count(*) from scores where teacher_draw_ids is null"), ["0"]);
    assert_eq!(small.sql("select count(*) from step_records where reverse_kl is not null"), ["0"]);
    let loss = small.sql("select min(loss) > 0 from steps");
    assert_eq!(loss, ["true"]);
}
