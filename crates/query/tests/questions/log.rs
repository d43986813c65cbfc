//! Tables of the log.

use crate::fixture::{self, answer, ask};
use store::Store;

async fn store() -> Store {
    let store = Store::memory();
    fixture::run(&store).await;
    store
}

#[tokio::test]
async fn commits_say_who_did_what() {
    let store = store().await;
    let kinds =
        answer(&store, "select kind, count(*) as n, sum(tokens) as tokens from commits group by 1 order by 1").await;
    assert_eq!(
        kinds,
        "kind,n,tokens\nclaim,1,0\ndrop,1,0\neval,3,72\nfinish,1,0\nretire,1,0\nrollouts,3,24\nrun,1,0\nscores,4,32\nstep,2,16\n"
    );
    let one = "select seq, worker, incarnation, job, started, busy_s, waited_s, at > started as later, json like '%\"held-out\"%' as whole from commits where seq = 8";
    assert_eq!(
        answer(&store, one).await,
        "seq,worker,incarnation,job,started,busy_s,waited_s,later,whole\n\
         8,eval,first,eval,1970-01-01T00:00:01Z,0.5,0.25,true,true\n"
    );
}

#[tokio::test]
async fn steps_and_metrics() {
    let store = store().await;
    let sql = "select step, policy_version, seq, rows, dropped_rows, score_set, published, loss, is_ess, staleness_mean, lr, trained_tokens from steps";
    assert_eq!(
        answer(&store, sql).await,
        "step,policy_version,seq,rows,dropped_rows,score_set,published,loss,is_ess,staleness_mean,lr,trained_tokens\n\
         1,1,7,4,0,b,true,0.75,,1,,8\n\
         2,2,12,4,1,b,false,0.75,,1,,8\n"
    );
    let digest = answer(&store, "select weights_digest from steps where step = 2").await;
    assert_eq!(digest, format!("weights_digest\n{}\n", record::Digest::of(b"w2")));
    let metrics = answer(&store, "select * from metrics where step = 1").await;
    assert_eq!(
        metrics,
        "step,name,numerator,denominator,value\n1,is/ess,0,0,\n1,loss,3,4,0.75\n1,odd,1,3,0.3333333333333333\n\
         1,sample/staleness_mean,4,4,1\n"
    );
}

#[tokio::test]
async fn every_rollout_ends_once() {
    let store = store().await;
    assert_eq!(
        answer(&store, "select step, rollout_id, batch, row, unit, policy_version, staleness from consumed").await,
        "step,rollout_id,batch,row,unit,policy_version,staleness\n\
         1,u0-x-0,u0-x,0,0,0,0\n1,u0-x-1,u0-x,1,0,0,0\n1,u0-x-2,u0-x,2,0,0,0\n1,u0-x-3,u0-x,3,0,0,0\n\
         2,u1-x-0,u1-x,0,1,0,1\n2,u1-x-1,u1-x,1,1,0,1\n2,u2-x-0,u2-x,0,2,1,0\n2,u2-x-1,u2-x,1,2,1,0\n"
    );
    assert_eq!(
        answer(&store, "select * from dropped").await,
        "seq,rollout_id,batch,row,unit,policy_version,reason,reissued\n12,u1-x-2,u1-x,2,1,0,stale,true\n\
         13,u1-x-3,u1-x,3,1,0,corrupt,false\n16,u2-x-2,u2-x,2,2,1,finished,false\n16,u2-x-3,u2-x,3,2,1,finished,false\n"
    );
    let ends = "with ended as (select rollout_id from consumed union all select rollout_id from dropped), \
        times as (select rollout_id, count(*) as n from ended group by 1) \
        select count(*) as rollouts, max(n) as most from rollouts r join times t on r.rollout_id = t.rollout_id";
    assert_eq!(answer(&store, ends).await, "rollouts,most\n12,1\n");
}

#[tokio::test]
async fn policies_and_evals() {
    let store = store().await;
    let policies = "select policy_version, seq, key like 'policies/%' as placed, bytes, digest, retired from policies";
    let (v0, v1) = (record::Digest::of(b"w0"), record::Digest::of(b"w1"));
    assert_eq!(
        answer(&store, policies).await,
        format!("policy_version,seq,placed,bytes,digest,retired\n0,0,true,2,{v0},true\n1,7,true,2,{v1},false\n")
    );
    // The second evaluation of version 0 does not count.
    assert_eq!(
        answer(&store, "select * from evals").await,
        "seq,eval_set,policy_version,accuracy,sampled_accuracy,problems,mean_length,clipped_ratio,reverse_kl\n\
         8,held-out,0,0.25,,8,3.75,,0.5\n14,held-out,1,0.75,,8,3.75,,0.5\n"
    );
    assert_eq!(
        answer(&store, "select policy_version, name, value from eval_metrics").await,
        "policy_version,name,value\n0,completions/mean_length,3.75\n0,reverse_kl,0.5\n\
         1,completions/mean_length,3.75\n1,reverse_kl,0.5\n"
    );
}

#[tokio::test]
async fn at_shows_the_past() {
    let store = store().await;
    let past = query::open(&store, Some(7)).await.unwrap();
    assert_eq!(
        ask(&past, "select count(*) as n, max(staleness) as most from consumed").await.unwrap(),
        "n,most\n4,0\n"
    );
    assert_eq!(ask(&past, "select count(*) as n from evals").await.unwrap(), "n\n0\n");
    // What has been given up since cannot be brought back by asking about the past.
    assert_eq!(
        ask(&past, "select policy_version, retired from policies").await.unwrap(),
        "policy_version,retired\n0,true\n1,false\n"
    );
    assert_eq!(ask(&past, "select count(*) as n from rollouts").await.unwrap(), "n\n8\n");
    let error = query::open(&store, Some(99)).await.err().unwrap().to_string();
    assert!(error.contains("99") && error.contains("16"), "{error}");
    let error = query::open(&Store::memory(), None).await.err().unwrap().to_string();
    assert!(error.contains("there is no run"), "{error}");
}

#[tokio::test]
async fn what_was_given_up_is_gone_from_every_moment_and_the_log_still_tells_of_it() {
    let store = store().await;
    let counts = "select (select count(*) from rollouts) as r, (select count(*) from scores) as s, (select count(*) from scored) as z, \
        (select count(*) from step_records) as p, (select count(*) from tokens) as t, \
        (select count(learner_logprob) from tokens) as l, (select count(*) from consumed) as c";
    let asked = async |at| ask(&query::open(&store, at).await.unwrap(), counts).await.unwrap();
    assert_eq!(asked(None).await, "r,s,z,p,t,l,c\n12,16,12,8,24,16,8\n");
    let past = asked(Some(12)).await;
    let mut log = store.follow().await.unwrap();
    let retired = record::Retirement { batches: vec!["u0-x".into()], steps: vec![2], ..Default::default() };
    let work = record::Work { job: record::Job::Store, ..store.history(None).await.unwrap()[0].work.clone() };
    let commit = log.append(work, |_| Some(record::Event::Retire(retired.clone()))).await.unwrap().unwrap();
    // Whoever still has a key finds nothing there.
    for object in store::named(&store.history(None).await.unwrap()) {
        assert_eq!(object.given_up.is_some_and(|seq| seq == commit.seq), {
            let key = &object.object.key;
            key.contains("u0-x") || key.starts_with("steps/00000002")
        });
        if object.given_up.is_some() {
            store.delete(&object.object.key).await.unwrap();
        }
    }
    assert_eq!(asked(None).await, "r,s,z,p,t,l,c\n8,12,8,4,16,0,8\n");
    assert_eq!(asked(Some(12)).await, "r,s,z,p,t,l,c\n8,12,8,4,16,0,8\n");
    assert_ne!(past, asked(Some(12)).await);
    let objects = "select kind, count(*) as n from objects where retired group by 1 order by 1";
    assert_eq!(
        ask(&query::open(&store, None).await.unwrap(), objects).await.unwrap(),
        "kind,n\npolicy,1\nrollouts,1\nscores,1\nstep_record,1\n"
    );
}
