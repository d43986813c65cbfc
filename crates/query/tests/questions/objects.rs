//! Tables of objects.

use crate::fixture::{self, answer, ask};
use arrow::{array::AsArray, datatypes::Int64Type};
use query::{QueryError, Session};
use record::{Event, ObjectRef};
use store::{Store, StoreError};

async fn store() -> Store {
    let store = Store::memory();
    fixture::run(&store).await;
    store
}

async fn session() -> Session {
    query::open(&store().await, None).await.unwrap()
}

/// The object of the rollouts of `unit`.
async fn rollouts_object(store: &Store, unit: u64) -> ObjectRef {
    let commits = store.history(None).await.unwrap();
    let found = commits.into_iter().find_map(|commit| match commit.event {
        Event::Rollouts(rollouts) if rollouts.of.unit == unit => Some(rollouts.object),
        _ => None,
    });
    found.unwrap()
}

#[tokio::test]
async fn rows_come_with_their_values_and_their_place() {
    let session = session().await;
    let sql = "select rollout_id, batch, row, unit, prompt_id, sample, policy_version, response_ids, draw_ids, seed, finish \
        from rollouts where unit = 2 and row > 1 order by row";
    assert_eq!(
        ask(&session, sql).await.unwrap(),
        "rollout_id,batch,row,unit,prompt_id,sample,policy_version,response_ids,draw_ids,seed,finish\n\
         u2-x-2,u2-x,2,2,5,0,1,\"[12,12]\",\"[[12],[12]]\",9,stop\nu2-x-3,u2-x,3,2,5,1,1,\"[13,13]\",\"[[13],[13]]\",9,stop\n"
    );
    let sql = "select score_set, policy_version, count(*) as n, min(teacher_logprobs[1]) as y from scores group by 1, 2 order by 1, 2";
    assert_eq!(ask(&session, sql).await.unwrap(), "score_set,policy_version,n,y\na,0,4,-9\nb,0,8,-1.5\nb,1,4,-1.5\n");
    let sql =
        "select step, rollout_id, staleness, learner_logprobs, reverse_kl from step_records where step = 2 limit 1";
    assert_eq!(
        ask(&session, sql).await.unwrap(),
        "step,rollout_id,staleness,learner_logprobs,reverse_kl\n2,u1-x-0,1,\"[-0.5,-0.25]\",\n"
    );
}

#[tokio::test]
async fn scored_is_rollouts_and_scores_side_by_side() {
    let session = session().await;
    // Steps train on score set `b`, though `a` comes first by name.
    let sql =
        "select score_set, count(*) as n, min(sampler_logprobs[1] - teacher_logprobs[1]) as gap from scored group by 1";
    assert_eq!(ask(&session, sql).await.unwrap(), "score_set,n,gap\nb,12,1\n");
    let (_, schema) = session.tables().find(|(name, _)| name == "scored").unwrap();
    let mut names: Vec<_> = schema.fields().iter().map(|field| field.name()).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "a column is there twice");
    let rows: usize = {
        let answer = session.run("select * from scored").await.unwrap();
        answer.collect().await.unwrap().iter().map(|batch| batch.num_rows()).sum()
    };
    assert_eq!(rows, 12);
}

#[tokio::test]
async fn only_objects_that_may_answer_are_opened() {
    for (filter, opened, rows) in [
        ("policy_version = 1", 1, 4),
        ("policy_version < 1", 2, 8),
        ("policy_version > 0 and sample = 0", 1, 2),
        ("policy_version between 1 and 5", 1, 4),
        ("policy_version in (1, 3)", 1, 4),
        ("policy_version <> 0", 1, 4),
        ("policy_version = 7", 0, 0),
        ("unit % 2 = 0", 2, 8),
        ("batch = 'u1-x'", 1, 4),
        ("teacher_id = 'small'", 0, 0),
        ("sample = 0 or policy_version = 1", 3, 8),
    ] {
        let session = session().await;
        let sql = format!("select count(finish) as n from rollouts where {filter}");
        assert_eq!(ask(&session, &sql).await.unwrap(), format!("n\n{rows}\n"), "{filter}");
        assert_eq!(session.objects_opened(), opened, "{filter}");
    }
    let session = session().await;
    ask(&session, "select sum(staleness) from step_records where step = 2").await.unwrap();
    assert_eq!(session.objects_opened(), 1);
}

#[tokio::test]
async fn what_the_log_tells_opens_nothing() {
    let session = session().await;
    let sql = "select policy_version, count(*) as n, min(rollout_id) as id, max(row) as row from rollouts group by 1 order by 1";
    assert_eq!(ask(&session, sql).await.unwrap(), "policy_version,n,id,row\n0,8,u0-x-0,3\n1,4,u2-x-0,3\n");
    assert_eq!(ask(&session, "select count(*) as n from scored").await.unwrap(), "n\n12\n");
    assert_eq!(session.objects_opened(), 0);
}

#[tokio::test]
async fn an_answer_is_computed_as_it_is_read() {
    let session = session().await;
    let mut answer = session.run("select response_ids from rollouts").await.unwrap();
    assert_eq!(session.objects_opened(), 0);
    assert!(answer.next().await.unwrap().unwrap().num_rows() < 12);
    drop(answer);
    assert!(session.objects_opened() > 0);
}

#[tokio::test]
async fn columns_that_are_not_asked_for_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().display().to_string(), Default::default()).await.unwrap();
    fixture::run(&store).await;
    // A commit may name whatever it likes: here an object whose `source` is no text any more, by its new digest.
    let damaged = rollouts_object(&store, 1).await;
    let file = folder.path().join(&damaged.key);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(10).position(|text| text == b"aritharith").unwrap();
    bytes[at] = 0xff;
    let digest = record::Digest::of(&bytes).to_string();
    std::fs::write(&file, &bytes).unwrap();
    for entry in std::fs::read_dir(folder.path().join("log")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&damaged.digest.to_string(), &digest)).unwrap();
    }
    let session = query::open(&store, None).await.unwrap();
    assert_eq!(ask(&session, "select sum(sample) as n from rollouts").await.unwrap(), "n\n6\n");
    assert_eq!(ask(&session, "select count(token_id) as n from tokens").await.unwrap(), "n\n24\n");
    let error = ask(&session, "select min(source) from rollouts").await.unwrap_err().to_string();
    assert!(error.contains(&damaged.key) && error.contains("UTF8"), "{error}");
}

#[tokio::test]
async fn a_missing_object_is_named_and_the_others_still_answer() {
    let store = store().await;
    let gone = rollouts_object(&store, 1).await;
    store.delete(&gone.key).await.unwrap();
    let session = query::open(&store, None).await.unwrap();
    let error = ask(&session, "select avg(seed) from rollouts").await.unwrap_err();
    assert!(error.to_string().contains(&gone.key), "{error}");
    assert!(matches!(&error, QueryError::Store(StoreError::Missing { .. }) | QueryError::Run(_)), "{error:?}");
    let rest = ask(&session, "select count(seed) as n from rollouts where unit <> 1").await.unwrap();
    assert_eq!(rest, "n\n8\n");
}

#[tokio::test]
async fn a_damaged_object_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap(), store::StoreOptions::default()).await.unwrap();
    fixture::run(&store).await;
    let object = rollouts_object(&store, 2).await;
    let file = folder.path().join(&object.key);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let session = query::open(&store, None).await.unwrap();
    for sql in [
        "select * from rollouts",
        "select sum(sampler_logprobs[1]) from scored",
        "select seed from rollouts where unit = 2",
    ] {
        let error = ask(&session, sql).await.unwrap_err();
        assert!(error.to_string().contains(&object.key), "{sql}: {error}");
    }
    assert_eq!(answer(&store, "select count(seed) as n from rollouts where policy_version = 0").await, "n\n8\n");
}

#[tokio::test]
async fn an_object_with_other_rows_than_its_commit_is_refused() {
    let store = Store::memory();
    let mut log = fixture::start(&store).await;
    fixture::sample(&store, &mut log, 0, 0, 3).await;
    let session = query::open(&store, None).await.unwrap();
    let error = ask(&session, "select seed from rollouts").await.unwrap_err();
    let key = rollouts_object(&store, 0).await.key;
    let QueryError::Rows { key: named, expected, found } = error else { panic!("{error:?}") };
    assert_eq!((named, expected.as_str(), found.as_str()), (key, "4 rows", "3"));
}

#[tokio::test]
async fn a_run_without_steps_has_empty_tables() {
    let store = Store::memory();
    fixture::start(&store).await;
    let session = query::open(&store, None).await.unwrap();
    for (table, _) in session.tables() {
        let rows = match table.as_str() {
            "commits" => 2,
            "work" => 2,
            "policies" => 1,
            "objects" => 3,
            "score_sets" => 2,
            _ => 0,
        };
        let answer = ask(&session, &format!("select * from {table}")).await.unwrap();
        assert_eq!(answer.lines().count(), rows + 1, "{table}");
    }
    assert_eq!(session.tables().count(), 19);
}

#[tokio::test]
async fn the_tables_of_another_score_set_are_asked_by_name() {
    let store = Store::memory();
    fixture::run(&store).await;
    let session = query::open(&store, None).await.unwrap();
    let by_set =
        |table: &str| format!("select score_set, count(*) as n, count(distinct batch) as b from {table} group by 1");
    assert_eq!(ask(&session, &by_set("scored")).await.unwrap(), "score_set,n,b\nb,12,3\n");
    assert_eq!(ask(&session, &by_set("scored_in('a')")).await.unwrap(), "score_set,n,b\na,4,1\n");
    assert_eq!(ask(&session, &by_set("tokens_in('a')")).await.unwrap(), "score_set,n,b\na,8,1\n");
    // Both at once: batch u1-x has scores of -9 in the one and of -1.5 in the other.
    let both = "select a.teacher_logprob as a, b.teacher_logprob as b, count(*) as n from tokens_in('a') a \
                join tokens b on a.rollout_id = b.rollout_id and a.position = b.position group by 1, 2";
    assert_eq!(ask(&session, both).await.unwrap(), "a,b,n\n-9,-1.5,8\n");
    let sets = "select score_set, parent, codec, batches, seq from score_sets order by 1";
    assert_eq!(ask(&session, sets).await.unwrap(), "score_set,parent,codec,batches,seq\na,,plain,1,0\nb,,plain,3,0\n");
    for (call, says) in [
        ("scored_in('zzz')", "no score set `zzz`\nhint: score sets: a, b"),
        ("tokens_in()", "tokens_in: expected the name of one score set"),
        ("tokens_in(3)", "as in tokens_in('main')"),
    ] {
        let said = ask(&session, &format!("select * from {call}")).await.unwrap_err().to_string();
        assert!(said.contains(says), "{call}: {said}");
    }
}

#[tokio::test]
async fn a_sort_larger_than_its_memory_goes_to_disk() {
    let session = query::open_within(&store().await, None, 16 << 20).await.unwrap();
    // 85,000 rows with a commit's JSON each: tens of megabytes.
    let sql = "select json, n * 17 + seq as n from (select unnest(range(0, 5000)) as n) r cross join commits \
        order by n % 1000 desc, n";
    let mut answer = session.run(sql).await.unwrap();
    let (mut rows, mut bytes, mut last) = (0, 0, None);
    while let Some(batch) = answer.next().await.unwrap() {
        bytes += batch.column(0).as_string::<i32>().value_data().len();
        for n in batch.column(1).as_primitive::<Int64Type>().values() {
            let key = (-(n % 1000), *n);
            assert!(last.is_none_or(|last| last < key));
            last = Some(key);
            rows += 1;
        }
    }
    assert_eq!(rows, 17 * 5000);
    assert!(bytes > 32 << 20, "{bytes}");
}

#[tokio::test]
async fn tables_meet_in_joins_and_unions_whatever_their_sentences_say() {
    let session = query::open(&store().await, None).await.unwrap();
    for (sql, answer) in [
        (
            "select * from (select avg(cardinality(teacher_logprobs)) as a from scores) s, \
             (select avg(cardinality(response_ids)) as b from rollouts) r, (select count(*) as n from steps) t",
            "a,b,n\n2,2,2\n",
        ),
        (
            "select count(*) as n from (select teacher_id from scores union all select teacher_id from rollouts) u",
            "n\n28\n",
        ),
        ("select (select count(*) from scores) as a, (select max(policy_version) from rollouts) as b", "a,b\n16,1\n"),
    ] {
        assert_eq!(ask(&session, sql).await.unwrap(), answer, "{sql}");
    }
}
