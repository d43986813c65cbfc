//! Sessions that follow their logs, and several stores at once.

use crate::fixture::{self, answer, ask};
use query::QueryError;
use store::Store;

#[tokio::test]
async fn a_session_that_is_refreshed_sees_what_was_appended_and_an_older_one_does_not() {
    let store = Store::memory();
    let log = fixture::start(&store).await;
    let (live, past) = (query::open(&store, None).await.unwrap(), query::open(&store, Some(1)).await.unwrap());
    assert!(live.refreshed().await.unwrap().is_none(), "nothing is new");
    fixture::go_on(&store, log).await;
    let newer = live.refreshed().await.unwrap().unwrap();
    for table in ["commits", "steps", "tokens", "evals", "objects", "budgets", "dropped", "policies"] {
        let sql = format!("select * from {table} order by 1, 2");
        assert_eq!(ask(&newer, &sql).await.unwrap(), answer(&store, &sql).await, "{table}");
    }
    assert_eq!(ask(&live, "select count(*) as n from commits").await.unwrap(), "n\n2\n");
    assert!(past.refreshed().await.unwrap().is_none(), "the past has no end to follow");
    assert!(newer.refreshed().await.unwrap().is_none());
}

#[tokio::test]
async fn each_store_is_a_schema() {
    let (one, two) = (Store::memory(), Store::memory());
    fixture::run(&one).await;
    fixture::start(&two).await;
    let both = || vec![("a".to_string(), one.clone()), ("b_2".to_string(), two.clone())];
    let session = query::open_all(both(), None).await.unwrap();
    let sql = "select (select count(*) from a.steps) as a, (select count(*) from b_2.steps) as b, \
        (select count(*) from a.throughput) as c, detokenize([10]) as d";
    assert_eq!(ask(&session, sql).await.unwrap(), "a,b,c,d\n2,0,4, one\n");
    let by_set = "select score_set, count(*) as n, (select count(*) from tokens_in('a', 'b')) as tokens, \
        (select count(*) from scored_in('b_2', 'a')) as none from scored_in('a', 'a') group by 1";
    assert_eq!(ask(&session, by_set).await.unwrap(), "score_set,n,tokens,none\na,4,24,0\n");
    assert_eq!(session.tables().filter(|(name, _)| name.starts_with("b_2.")).count(), 19);
    assert!(session.functions().starts_with(&["reverse_kl".to_string(), "teacher_mass".into()]));
    for (sql, says) in [
        ("select * from steps", "say in which store: a.steps, b_2.steps"),
        ("select * from stepps", "did you mean `steps`? In which store is said before it: `a.steps`"),
        ("select * from a.stepps", "no table `a.stepps`\nhint: did you mean `steps`?"),
        ("select * from b2.steps", "`b2` is no store here; did you mean `b_2`?"),
        ("select weights_digst from a.steps", "did you mean `weights_digest`?"),
        ("describe steps", "say in which store"),
        (
            "select * from scored_in('a')",
            "the names of a store and of one of its score sets, as in scored_in('a', 'main')",
        ),
        ("select * from scored_in('b2', 'a')", "`b2` is no store here\nhint: did you mean `b_2`?"),
        ("select * from tokens_in('b_2', 'zzz')", "there is no score set `zzz`"),
    ] {
        let error = ask(&session, sql).await.unwrap_err().to_string();
        assert!(error.contains(says), "{sql}: {error}");
    }
    for name in ["", "A", "1a", "a.b", "a b", "information_schema"] {
        let error = query::open_all(vec![(name.into(), one.clone())], None).await.err();
        assert!(matches!(&error, Some(QueryError::StoreName { .. })), "{name}: {error:?}");
    }
    let past = query::open_all(vec![("a".into(), one.clone())], Some(0)).await.unwrap();
    assert_eq!(ask(&past, "select count(*) as n from a.commits").await.unwrap(), "n\n1\n");
    let twice = query::open_all(vec![("a".into(), one.clone()), ("a".into(), two.clone())], None).await.err();
    assert!(twice.is_some_and(|error| error.to_string().contains("a name of its own for each store")));
}

#[tokio::test]
async fn a_query_says_how_far_it_is() {
    let store = Store::memory();
    fixture::run(&store).await;
    let session = query::open(&store, None).await.unwrap();
    for (sql, batches) in [
        ("select count(seed) from rollouts", 3),
        ("select count(seed) from rollouts where policy_version = 1", 1),
        ("select count(*) from rollouts", 0),
        ("select count(*) from steps", 0),
    ] {
        ask(&session, sql).await.unwrap();
        assert_eq!(session.meter().progress(), (batches, batches), "{sql}");
    }
}
