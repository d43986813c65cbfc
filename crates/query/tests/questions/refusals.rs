//! What is refused, and the hints.

use crate::fixture::{self, ask};
use query::{QueryError, Session};
use store::Store;

async fn session() -> (Session, Store) {
    let store = Store::memory();
    fixture::run(&store).await;
    (query::open(&store, None).await.unwrap(), store)
}

#[tokio::test]
async fn only_questions_are_answered() {
    let (session, store) = session().await;
    let before = store.history(None).await.unwrap().len();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.csv").display().to_string();
    for sql in [
        "insert into consumed values (1)".to_string(),
        "delete from steps".into(),
        "update steps set loss = 0".into(),
        "drop table rollouts".into(),
        "create table t as select 1 as x".into(),
        "create view v as select 1 as x".into(),
        "create external table t stored as parquet location '/tmp'".into(),
        format!("copy (select 1 as x) to '{file}' stored as csv"),
        format!("copy steps to '{file}'"),
        "set datafusion.execution.batch_size = 1".into(),
        "explain analyze insert into steps select * from steps".into(),
        "begin".into(),
        "truncate table steps".into(),
        "prepare p as select 1".into(),
    ] {
        let error = ask(&session, &sql).await.unwrap_err();
        assert!(matches!(error, QueryError::NotAQuestion { .. } | QueryError::Sql(_)), "{sql}: {error:?}");
        if !sql.starts_with("explain") && !sql.starts_with("truncate") {
            let word = sql.split(' ').next().unwrap().to_uppercase();
            assert!(error.to_string().contains(&format!("`{word}` is refused")), "{sql}: {error}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(store.history(None).await.unwrap().len(), before);
}

#[tokio::test]
async fn one_question_at_a_time() {
    let (session, _) = session().await;
    for (sql, found) in [("select 1; select 2", 2), ("", 0), (" ; ", 0)] {
        let error = ask(&session, sql).await.unwrap_err();
        assert!(matches!(error, QueryError::OneStatement { found: n } if n == found), "{sql}: {error:?}");
    }
    assert_eq!(ask(&session, "select 1 as x;").await.unwrap(), "x\n1\n");
}

#[tokio::test]
async fn what_is_to_be_repeatable_calls_nothing_that_varies() {
    let (session, _) = session().await;
    for (condition, function) in [
        ("random() < 0.1", "random"),
        ("policy_version > 0 and now() > to_timestamp(0)", "now"),
        ("unit in (select unit from consumed order by random() limit 1)", "random"),
        ("exists (select 1 from steps where step > 10 * random())", "random"),
        ("unit > (select count(*) * random() from consumed)", "random"),
        ("sample < 2 or uuid() = 'x'", "uuid"),
    ] {
        let sql = format!("select batch from scored where {condition}");
        let said = session.run_repeatable(&sql).await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(&format!("`{function}` gives another value each time")), "{sql}: {said}");
        session.run(&sql).await.unwrap();
    }
    let sql = "select count(*) as n from scored where unit in (select unit from consumed where abs(staleness) < 9)";
    let answer = session.run_repeatable(sql).await.unwrap();
    assert_eq!(answer.collect().await.unwrap().iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
}

#[tokio::test]
async fn misspelt_names_get_the_nearest() {
    let (session, _) = session().await;
    for (sql, hint) in [
        ("select * from rolouts", "no table `rolouts`\nhint: did you mean `rollouts`?"),
        ("select * from store.scorse", "no table `scorse`\nhint: did you mean `scores`?"),
        ("select * from (select * from consume) c", "did you mean `consumed`?"),
        (
            "select * from elephants",
            "hint: tables: budgets, commits, consumed, dropped, eval_metrics, evals, metrics, objects",
        ),
        ("select polcy_version from rollouts", "no column `polcy_version`\nhint: did you mean `policy_version`?"),
        ("select stale from consumed", "did you mean `staleness`?"),
        ("select s.stp from steps s", "did you mean `step`?"),
        ("select count(*) from steps where los > 1", "did you mean `loss`?"),
        ("select accuracy from policies", "`evals` has it"),
        ("select elephant from policies", "hint: columns: policy_version, seq, key, bytes, digest, retired"),
    ] {
        let error = ask(&session, sql).await.unwrap_err().to_string();
        assert!(error.contains(hint), "{sql}: {error}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_said_plainly() {
    let (session, _) = session().await;
    for sql in [
        "selec 1",
        "select nofunction(1)",
        "select * from",
        "select 'a' + interval from steps",
        "select sum(batch) from rollouts",
    ] {
        let error = ask(&session, sql).await.unwrap_err();
        assert!(matches!(error, QueryError::Sql(_)), "{sql}: {error:?}");
    }
    let with = "with s as (select step, loss from steps) select max(loss) as m from s";
    assert_eq!(ask(&session, with).await.unwrap(), "m\n0.75\n");
    let tables = ask(&session, "show tables").await.unwrap();
    assert!(tables.contains("\nconsumed,\"One row is one rollout that one step trained on,"), "{tables}");
    let columns = ask(&session, "describe consumed").await.unwrap();
    assert!(columns.contains("\nstaleness,int64,yes,Policy versions the learner was ahead"), "{columns}");
    let columns = ask(&session, "describe scored").await.unwrap();
    assert!(columns.contains("\nteacher_entropy,list<float32>,yes,"), "{columns}");
    let functions = ask(&session, "show functions").await.unwrap();
    assert!(functions.contains("\n\"teacher_mass(teacher_top_logprobs, k)\",The mass"), "{functions}");
    assert!(ask(&session, "explain select * from rollouts where policy_version = 1").await.is_ok());
}
