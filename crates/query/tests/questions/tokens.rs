//! One row a position, the functions, and the views.

use crate::fixture::{self, ask};
use query::{QueryError, Session};
use store::Store;

async fn session() -> Session {
    let store = Store::memory();
    fixture::run(&store).await;
    query::open(&store, None).await.unwrap()
}

#[tokio::test]
async fn a_position_has_what_each_model_made_of_it() {
    let session = session().await;
    // Unit 1: step 2 trained on rows 0 and 1, one version late; rows 2 and 3 were dropped.
    let sql = "select rollout_id, row, position, step, staleness, token_id, token, sampler_logprob as s, teacher_logprob as t, \
        learner_logprob as l, entropy as h, forward_kl as f, teacher_top_ids, source \
        from tokens where unit = 1 and row in (1, 2) order by rollout_id, position";
    assert_eq!(
        ask(&session, sql).await.unwrap(),
        "rollout_id,row,position,step,staleness,token_id,token,s,t,l,h,f,teacher_top_ids,source\n\
         u1-x-1,1,0,2,1,11,two,-0.5,-1.5,-0.5,0.5,,\"[7,8]\",arith\nu1-x-1,1,1,2,1,11,two,-0.25,-1.5,-0.25,0.5,,\"[7,8]\",arith\n\
         u1-x-2,2,0,,,12,\"\n\",-0.5,-1.5,,,,\"[7,8]\",arith\nu1-x-2,2,1,,,12,\"\n\",-0.25,-1.5,,,,\"[7,8]\",arith\n"
    );
    assert_eq!(
        ask(&session, "select count(*) as n, count(learner_logprob) as l from tokens").await.unwrap(),
        "n,l\n24,16\n"
    );
    // What a rollout's lists hold, position by position.
    let lists =
        "select sum(array_length(response_ids)) as n, sum(sampler_logprobs[1] + sampler_logprobs[2]) as s from scored";
    let rows = "select count(*) as n, sum(sampler_logprob) as s from tokens";
    assert_eq!(ask(&session, rows).await.unwrap(), ask(&session, lists).await.unwrap());
}

#[tokio::test]
async fn only_what_a_position_needs_is_opened() {
    for (sql, opened, answer) in [
        // A step's record, once, and the two batches it consumed.
        ("select count(learner_logprob) as n from tokens where step = 2", 3, 8),
        ("select count(learner_logprob) as n from tokens where step = 2 and policy_version = 1", 2, 4),
        ("select count(teacher_logprob) as n from tokens where policy_version = 1 and step is not null", 1, 4),
        ("select count(position) as n from tokens where staleness = 1", 1, 4),
        ("select count(token) as n from tokens where policy_version = 7", 0, 0),
        ("select count(teacher_mass) as n from budgets where policy_version = 1", 2, 7),
    ] {
        let session = session().await;
        assert_eq!(ask(&session, sql).await.unwrap(), format!("n\n{answer}\n"), "{sql}");
        assert_eq!(session.objects_opened(), opened, "{sql}");
    }
}

#[tokio::test]
async fn explain_says_how_many_objects_are_opened() {
    let session = session().await;
    for (sql, says) in [
        (
            "select learner_logprob from tokens where step = 1",
            "tokens, opens 2 of 8 objects, columns=[step, learner_logprob]",
        ),
        ("select token_id, teacher_logprob from tokens where policy_version = 1", "opens 2 of 8 objects"),
        ("select seed from rollouts where policy_version = 0", "rollouts, opens 2 of 3 objects"),
        ("select seed from scored", "scored, opens 6 of 6 objects"),
        ("select batch, row from scored", "scored, opens 0 of 6 objects"),
        ("select entropy from step_records where step > 1", "step_records, opens 1 of 2 objects"),
    ] {
        let plan = ask(&session, &format!("explain format indent {sql}")).await.unwrap();
        assert!(plan.contains("ObjectScan: ") && plan.contains(says), "{sql}: {plan}");
    }
    assert_eq!(session.objects_opened(), 0);
}

#[tokio::test]
async fn trends_open_nothing() {
    let session = session().await;
    assert_eq!(
        ask(&session, "select job, worker, commits, tokens, busy_s, tokens_per_busy_s from throughput order by job")
            .await
            .unwrap(),
        "job,worker,commits,tokens,busy_s,tokens_per_busy_s\neval,eval,3,72,1.5,48\nlearn,learn,2,16,1,16\n\
         rollout,rollout-0,3,24,1.5,16\nscore,score-0,4,32,2,16\n"
    );
    let sql = "select kind, score_set, codec, policy_version, count(*) as n, sum(bytes) > 0 as held, bool_or(retired) as retired \
        from objects group by 1, 2, 3, 4 order by 1, 2, 4";
    assert_eq!(
        ask(&session, sql).await.unwrap(),
        "kind,score_set,codec,policy_version,n,held,retired\nconfig,,,,1,true,false\nmoments,,,1,1,true,false\n\
         policy,,,0,1,true,true\npolicy,,,1,1,true,false\nrollouts,,,0,2,true,false\nrollouts,,,1,1,true,false\n\
         scores,a,plain,0,1,true,false\nscores,b,plain,0,2,true,false\nscores,b,plain,1,1,true,false\n\
         step_record,,,1,1,true,false\nstep_record,,,2,1,true,false\ntokenizer,,,,1,true,false\n"
    );
    let sql = "select kind, policy_version, tokens from work where seq in (5, 10, 12, 14, 15) order by seq";
    assert_eq!(
        ask(&session, sql).await.unwrap(),
        "kind,policy_version,tokens\nscores,0,8\nrollouts,1,8\nstep,2,8\neval,1,24\nretire,,0\n"
    );
    assert_eq!(session.objects_opened(), 0);
}

#[tokio::test]
async fn views_ask_the_usual_questions() {
    let session = session().await;
    assert_eq!(
        ask(&session, "select * from staleness order by staleness").await.unwrap(),
        "staleness,positions,reverse_kl,forward_kl,entropy,is_mean,is_ess\n0,12,,,0.5,1,1\n1,4,,,0.5,1,1\n"
    );
    let sql = "select policy_version, k, positions, entries, bytes, round(teacher_mass, 6) as mass from budgets where k < 4 order by 1, 2";
    let (one, two) = ((-1f64).exp(), (-1f64).exp() + (-2f64).exp());
    assert_eq!(
        ask(&session, sql).await.unwrap(),
        format!(
            "policy_version,k,positions,entries,bytes,mass\n0,1,16,1,24,{one:.6}\n0,2,16,2,32,{two:.6}\n\
             1,1,8,1,24,{one:.6}\n1,2,8,2,32,{two:.6}\n"
        )
    );
    for view in ["throughput", "staleness", "budgets"] {
        let columns = ask(&session, &format!("describe {view}")).await.unwrap();
        assert!(columns.lines().skip(1).all(|line| line.ends_with(['.', '"'])), "{columns}");
    }
}

#[tokio::test]
async fn functions_compute_what_they_say() {
    let session = session().await;
    for (call, expected) in [
        ("teacher_mass([ln(0.5), ln(0.25)], 1)", "0.5"),
        ("teacher_mass([ln(0.5), ln(0.25)], 9)", "0.75"),
        ("teacher_mass([ln(0.5)], 0)", "0"),
        ("teacher_mass([ln(0.5)], null)", ""),
        // Two equal halves, and a certainty with nothing behind it.
        ("entropy([ln(0.5)], ln(0.5)) / ln(2)", "1"),
        ("entropy([0.0], cast('-inf' as double))", "0"),
        ("entropy([], 0.0)", ""),
        ("overlap_ratio([1, 2, 3, 4], [4, 9, 1])", "0.5"),
        ("overlap_ratio([], [1])", ""),
        ("cache_bytes(0, 0)", "8"),
        ("cache_bytes(64, 16)", "800"),
        ("reverse_kl([3, 1], [0.0, -1.0], [-1.0, -2.0])", "1"),
        ("reverse_kl([], [], [])", ""),
        ("detokenize([11, 10, 12, 13])", "\"two one\n<eos>\""),
        ("(select ess(w) from unnest([1.0, 1.0, 0.0, 2.0]) as t(w))", "2.6666666666666665"),
        ("(select ess(w) from unnest([0.0]) as t(w))", ""),
    ] {
        let answer =
            ask(&session, &format!("select {call} as x")).await.unwrap_or_else(|error| panic!("{call}: {error}"));
        assert_eq!(answer, format!("x\n{expected}\n"), "{call}");
    }
    // By position, and the same by rollout.
    let sql = "select distinct reverse_kl(draw_counts, draw_logprobs, draw_teacher_logprobs) as kl from tokens where position = 0";
    assert_eq!(ask(&session, sql).await.unwrap(), "kl\n1\n");
    let sql = "select distinct detokenize(response_ids) as text from scored where row = 0";
    assert_eq!(ask(&session, sql).await.unwrap(), "text\n one one\n");
}

#[tokio::test]
async fn functions_say_what_they_need() {
    let session = session().await;
    let error = |sql: &'static str| {
        let session = &session;
        async move { ask(session, sql).await.unwrap_err().to_string() }
    };
    let text = error("select teacher_mass(teacher_top_logprobs, 4) from scored").await;
    assert!(text.contains("expected a list of floats, found") && text.contains("`tokens`"), "{text}");
    let text = error("select teacher_mass(teacher_top_logprobs) from tokens").await;
    assert!(text.contains("expected `teacher_mass(teacher_top_logprobs, k)`, found 1 arguments"), "{text}");
    let text = error("select reverse_kl([1, 2], [0.0], [0.0])").await;
    assert!(text.contains("2, 1 and 1 entries"), "{text}");
    let text = error("select sampler_logprobs from tokens").await;
    assert!(text.contains("did you mean `sampler_logprob`?"), "{text}");
}

#[tokio::test]
async fn functions_refuse_a_score_set_that_lacks_what_they_need() {
    let store = Store::memory();
    fixture::without_top_k_and_draws(&store).await;
    let session = query::open(&store, None).await.unwrap();
    for (sql, needs) in [
        (
            "select teacher_mass(teacher_top_logprobs, 1) from tokens",
            "the teacher's top-k, and score set `b` keeps none",
        ),
        ("select * from budgets", "the teacher's top-k, and score set `b` keeps none"),
        ("select reverse_kl(draw_counts, draw_logprobs, draw_teacher_logprobs) from tokens", "score set `b` has none"),
    ] {
        let error = ask(&session, sql).await.unwrap_err();
        assert!(matches!(&error, QueryError::Lacks { .. } | QueryError::Run(_)), "{error:?}");
        assert!(error.to_string().contains(needs), "{error}");
    }
}
