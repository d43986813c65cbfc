//! Answers as people and programs get them.

use crate::fixture;
use query::{Format, QueryError, Session, TABLE_ROWS, render};
use store::Store;

async fn session() -> Session {
    let store = Store::memory();
    fixture::run(&store).await;
    query::open(&store, None).await.unwrap()
}

async fn rendered(session: &Session, sql: &str, format: Format) -> String {
    render(session.run(sql).await.unwrap(), format).await.unwrap()
}

#[tokio::test]
async fn a_table_is_readable() {
    let session = session().await;
    let sql = "select step, loss / 7 as loss, published, weights_digest from steps order by step";
    assert_eq!(
        rendered(&session, sql, Format::Table { width: 60 }).await,
        "step      loss  published  weights_digest\n\
         ----  --------  ---------  ---------------------------------\n   \
            1  0.107143  true       sha256:60c5590f72eef292f9545afc2…\n   \
            2  0.107143  false      sha256:06f8faea3b5f697691b6d063a…\n(2 rows)\n"
    );
}

#[tokio::test]
async fn a_wide_table_stands_one_value_a_line() {
    let session = session().await;
    let text = rendered(&session, "select * from scored limit 1", Format::Table { width: 120 }).await;
    assert!(text.starts_with("-- row 1\nrollout_id "), "{text}");
    assert!(text.contains("teacher_top_logprobs               [[-1, -2], [-1, -2]]\n"), "{text}");
    assert!(text.ends_with("(1 row)\n"), "{text}");
}

#[tokio::test]
async fn a_long_table_says_that_there_is_more() {
    let session = session().await;
    let sql = "select a.seq from commits a cross join commits b cross join commits c";
    let text = rendered(&session, sql, Format::Table { width: 80 }).await;
    assert_eq!(text.lines().count(), TABLE_ROWS + 3);
    assert!(text.ends_with("(the first 1000 rows; csv and json give all)\n"), "{}", &text[text.len() - 60..]);
    assert_eq!(rendered(&session, sql, Format::Csv).await.lines().count(), 17 * 17 * 17 + 1);
}

#[tokio::test]
async fn json_is_one_array_that_any_reader_takes() {
    let session = session().await;
    let sql = "select rollout_id, policy_version, teacher_top_ids, teacher_tail_logprobs, teacher_entropy, sampler_logprobs \
        from scored where batch = 'u0-x' order by row";
    let value: serde_json::Value = serde_json::from_str(&rendered(&session, sql, Format::Json).await).unwrap();
    assert_eq!(value.as_array().unwrap().len(), 4);
    assert_eq!(
        value[1],
        serde_json::json!({
            "rollout_id": "u0-x-1",
            "policy_version": 0,
            "teacher_top_ids": [[7, 8], [7, 8]],
            "teacher_tail_logprobs": [-0.7, null],
            "teacher_entropy": null,
            "sampler_logprobs": [-0.5, -0.25],
        })
    );
    assert_eq!(rendered(&session, "select step from steps where step > 9", Format::Json).await, "[]\n");
    assert_eq!(
        rendered(&session, "select step from steps", Format::Json).await,
        "[\n{\"step\": 1},\n{\"step\": 2}\n]\n"
    );
}

#[tokio::test]
async fn csv_quotes_what_needs_it_and_tells_empty_from_null() {
    let session = session().await;
    let sql =
        "select 'a,\"b\"' as \"x,y\", '' as empty, null as none, 'plain' as plain, step from steps where step = 1";
    assert_eq!(
        rendered(&session, sql, Format::Csv).await,
        "\"x,y\",empty,none,plain,step\n\"a,\"\"b\"\"\",\"\",,plain,1\n"
    );
}

/// A pipe whose reader leaves after a few bytes, or a full disk.
struct Refuses(usize, std::io::ErrorKind);

impl std::io::Write for Refuses {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(self.1)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_may_leave_but_a_disk_may_not_be_full() {
    let session = session().await;
    for format in [Format::Csv, Format::Json, Format::Table { width: 80 }] {
        let ask = || session.run("select seq, kind from commits");
        let mut pipe = Refuses(40, std::io::ErrorKind::BrokenPipe);
        assert!(query::write(ask().await.unwrap(), format, &mut pipe).await.is_ok());
        let mut full = Refuses(40, std::io::ErrorKind::StorageFull);
        let error = query::write(ask().await.unwrap(), format, &mut full).await.unwrap_err();
        assert!(matches!(error, QueryError::Write(_)), "{error:?}");
    }
}
