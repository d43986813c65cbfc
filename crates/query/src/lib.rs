//! QUESTIONS: SQL over a store, at any commit of its log.
//!
//! - [`open`] reads the log and makes a [`Session`]: the store as tables, as it was after one commit; [`open_all`] does it for
//!   several stores, each a schema;
//! - [`Session::run`] asks a question and gives an [`Answer`], whose rows are computed as they are read;
//! - [`write()`] and [`render()`] put an answer into a [`Format`];
//! - [`Predicate`] is a condition on one row, by which a learner selects;
//! - [`QueryError`] says what to do where there is no answer.
//!
//! `commits`, `work`, `objects`, `steps`, `metrics`, `consumed`, `dropped`, `policies`, `evals`, `eval_metrics` and
//! `score_sets` are made of the log alone. `rollouts`, `scores`, `scored`, `step_records` and `tokens` lie in objects, which are opened one after
//! another while the query runs: a filter on `policy_version`, `batch`, `unit`, `score_set`, `teacher_id`, `step` or
//! `staleness` decides by the log which ones are, and a question that the log can answer opens none. The views
//! `throughput`, `staleness` and `budgets` are SQL over them; `show tables` says of each what it holds. `scored_in('SET')` and
//! `tokens_in('SET')` are those tables of another score set.
//!
//! One invariant: nothing here changes a store, and memory does not grow with it, but for the log itself.
//!
//! ```no_run
//! # async fn example() -> query::Result<()> {
//! let store = store::Store::open("runs/arith", store::StoreOptions::default()).await?;
//! let session = query::open(&store, None).await?;
//! let answer = session.run("select staleness, count(*) from consumed group by 1 order by 1").await?;
//! print!("{}", query::render(answer, query::Format::Table { width: 100 }).await?);
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

mod answer;
mod attached;
mod cell;
mod columns;
mod describe;
mod error;
mod functions;
mod hint;
mod in_score_set;
mod kept;
mod log;
mod log_scan;
mod meter;
mod object_scan;
mod parts;
mod predicate;
mod reader;
mod records;
mod render;
mod repeatable;
mod rows_at_once;
mod scan;
mod session;
mod single;
mod statement;
mod table;
mod tables;
mod tokenizer;
mod tokens;
mod views;

pub use answer::Answer;
pub use error::{QueryError, Result};
pub use meter::Meter;
pub use predicate::Predicate;
pub use render::{Format, TABLE_ROWS, render, write};
pub use session::{Session, open, open_all, open_within};
pub use single::ask;
