//! Stores at a commit each, ready for questions.

use crate::{
    Answer, Meter, QueryError, Result,
    attached::{Attached, CATALOG, Parent},
    describe, functions,
    hint::did_you_mean,
    in_score_set,
    kept::Kept,
    log::Log,
    reader::Opener,
    records::Records,
    repeatable::varying_in,
    rows_at_once::{FEW, rows_at_once},
    statement::{is_explain, only_one, only_reads, refuse_unless_question},
    tokenizer::RunTokenizer,
};
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{
    common::TableReference,
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream, SessionState, TaskContext,
        memory_pool::{FairSpillPool, TrackConsumersPool},
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    logical_expr::LogicalPlan,
    physical_plan::execute_stream,
    prelude::{SessionConfig, SessionContext},
    sql::{
        parser::{DFParser, Statement},
        sqlparser::ast,
    },
};
use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use store::Store;

/// What a query may hold in memory at once unless it is said, in bytes.
const MEMORY: usize = 1 << 30;
/// Of that, as much again may be kept of what was made of each log: 64 MiB, where nothing else is said.
const KEPT_SHARE: usize = 16;
/// Threads' worth of work of one query.
const PARTITIONS: usize = 2;
/// The schema of a store that is asked alone, whose tables need no schema's name.
const ALONE: &str = "store";

/// Stores, each at one commit.
pub struct Session {
    context: SessionContext,
    attached: Vec<Attached>,
    memory: usize,
}

/// Reads the log of `store` and lays its tables out as they were after commit `at`, or are now, less what has been given up since. No
/// batch is opened.
///
/// # Errors
/// [`QueryError::Store`] if there is no run, the log is shorter or cannot be read.
pub async fn open(store: &Store, at: Option<u64>) -> Result<Session> {
    open_within(store, at, MEMORY).await
}

/// As [`open`], for queries that may hold about `memory` bytes at once: sorts and groupings beyond it go to a temporary
/// folder, and what cannot go there fails. The batch in hand and the log come on top.
///
/// # Errors
/// As [`open`].
pub async fn open_within(store: &Store, at: Option<u64>, memory: usize) -> Result<Session> {
    let attached = attach(vec![(ALONE.into(), store.clone())], at, memory).await?;
    Session::over(attached, memory, runtime(memory)?).await
}

/// As [`open`], for stores with names: the tables of each are in a schema of its name, `a.steps`. A commit `at` is one of each log.
///
/// # Errors
/// As [`open`]; [`QueryError::StoreName`] for a name that SQL would have to quote, that is taken or that two have.
pub async fn open_all(stores: Vec<(String, Store)>, at: Option<u64>) -> Result<Session> {
    for (i, (name, _)) in stores.iter().enumerate() {
        let fault = |expected| Err(QueryError::StoreName { name: name.clone(), expected });
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(is_word) {
            return fault("lower-case letters, digits and `_`, a letter first");
        }
        if name == "information_schema" {
            return fault("a name that SQL does not use itself");
        }
        if stores[..i].iter().any(|(other, _)| other == name) {
            return fault("a name of its own for each store");
        }
    }
    Session::over(attach(stores, at, MEMORY).await?, MEMORY, runtime(MEMORY)?).await
}

async fn attach(stores: Vec<(String, Store)>, at: Option<u64>, memory: usize) -> Result<Vec<Attached>> {
    let (opened, meter) = (Arc::new(AtomicU64::new(0)), Arc::new(Meter::default()));
    let mut attached = Vec::new();
    for (name, store) in stores {
        let commits = store.history(None).await?;
        if commits.last().is_some_and(|last| at.is_some_and(|at| last.seq < at)) {
            // Says where the log ends.
            store.history(at).await?;
        }
        let mut log = Log::new(commits, at)?;
        let parent = Parent::of(&log, &store).await;
        if let Some(Ok(parent)) = &parent {
            log.borrow_from(&parent.log);
        }
        let tokenizer = Arc::new(RunTokenizer::new(log.run().student_tokenizer.clone()));
        let (opened, meter, records) = (opened.clone(), meter.clone(), Records::default());
        let of_parent = parent.as_ref().and_then(|parent| Some(parent.as_ref().ok()?.store.clone()));
        let opener = Opener { store, parent: of_parent, opened, meter, tokenizer, records };
        let (log, schemas, kept) = (Arc::new(log), Default::default(), Kept::new(memory / KEPT_SHARE));
        attached.push(Attached { name, log, parent, opener, kept, is_live: at.is_none(), schemas });
    }
    Ok(attached)
}

fn runtime(memory: usize) -> Result<Arc<RuntimeEnv>> {
    // Naming the consumers makes "out of memory" say who needs it.
    let top = const { NonZeroUsize::new(3).expect("3 is not 0") };
    let pool = Arc::new(TrackConsumersPool::new(FairSpillPool::new(memory), top));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc();
    runtime.map_err(|error| QueryError::Run(error.to_string()))
}

/// The tokenizer of all of them, or what speaks against there being one.
fn common_tokenizer(attached: &[Attached]) -> Result<Arc<RunTokenizer>, String> {
    let digest = |of: &Attached| of.opener.tokenizer.object().digest;
    let first = &attached[0];
    match attached.iter().find(|of| digest(of) != digest(first)) {
        None => Ok(first.opener.tokenizer.clone()),
        Some(other) => Err(format!(
            "one tokenizer, and those of `{}` and `{}` differ; ask each store by itself",
            first.name, other.name
        )),
    }
}

/// Begins to answer a question that was planned.
async fn execute(mut state: SessionState, plan: LogicalPlan) -> Result<SendableRecordBatchStream, DataFusionError> {
    let plan = state.optimize(&plan)?;
    let config = state.config().clone().with_batch_size(rows_at_once(&plan)?);
    *state.config_mut() = config;
    let plan = state.query_planner().create_physical_plan(&plan, &state).await?;
    execute_stream(plan, Arc::new(TaskContext::from(&state)))
}

impl Session {
    /// `attached` is not empty.
    async fn over(mut attached: Vec<Attached>, memory: usize, runtime: Arc<RuntimeEnv>) -> Result<Self> {
        let config = SessionConfig::new()
            .with_target_partitions(PARTITIONS)
            .with_batch_size(FEW)
            // Each sort keeps this back for merging what it spilt; the default suits a larger memory.
            .with_sort_spill_reservation_bytes((memory / 16).min(10 << 20))
            .with_information_schema(true)
            .with_default_catalog_and_schema(CATALOG, ALONE);
        let context = SessionContext::new_with_config_rt(config, runtime);
        let logs: Vec<&Log> = attached.iter().map(|of| of.log.as_ref()).collect();
        for function in functions::scalar_functions(&logs, common_tokenizer(&attached)) {
            context.register_udf(function);
        }
        for function in functions::aggregates(&logs) {
            context.register_udaf(function);
        }
        in_score_set::register(&context, &attached);
        for store in &mut attached {
            store.lay_out(&context).await.map_err(|error| QueryError::Run(error.to_string()))?;
        }
        Ok(Self { context, attached, memory })
    }

    /// The same with what was appended to the logs since, or `None` where nothing was. Only the new commits are read.
    ///
    /// # Errors
    /// As [`open`].
    pub async fn refreshed(&self) -> Result<Option<Self>> {
        let (mut any, mut attached) = (false, Vec::new());
        for store in &self.attached {
            let new = store.refreshed().await?;
            any |= new.is_some();
            attached.push(new.unwrap_or_else(|| store.clone()));
        }
        match any {
            true => Ok(Some(Self::over(attached, self.memory, self.context.runtime_env()).await?)),
            false => Ok(None),
        }
    }

    /// The tables by name, with that of their store before it where there are several; table and column metadata `comment`
    /// says what each holds.
    pub fn tables(&self) -> impl Iterator<Item = (String, &SchemaRef)> {
        let is_alone = self.is_alone();
        self.attached.iter().flat_map(move |store| {
            store.schemas.iter().map(move |(table, schema)| match is_alone {
                true => (table.to_string(), schema),
                false => (format!("{}.{table}", store.name), schema),
            })
        })
    }

    /// The names of all functions, the store's own first.
    pub fn functions(&self) -> Vec<String> {
        let own = functions::FUNCTIONS.iter().filter_map(|(call, _)| call.split('(').next()).map(str::to_string);
        let state = self.context.state();
        let mut others: Vec<String> =
            state.scalar_functions().keys().chain(state.aggregate_functions().keys()).cloned().collect();
        others.extend(state.window_functions().keys().cloned());
        others.sort();
        others.dedup();
        let own: Vec<String> = own.collect();
        others.retain(|name| !own.contains(name));
        [own, others].concat()
    }

    /// Why the rows of a replay's parent are not there: `rollouts`, `scores`, `scored` and `tokens` are then empty of them.
    pub fn without(&self) -> impl Iterator<Item = &str> {
        self.attached.iter().filter_map(|store| store.parent.as_ref()?.as_ref().err()).map(String::as_str)
    }

    /// How many batches and step records the queries of this session have opened so far.
    pub fn objects_opened(&self) -> u64 {
        self.attached[0].opener.opened.load(Ordering::Relaxed)
    }

    /// How far the query is that runs now.
    pub fn meter(&self) -> Arc<Meter> {
        self.attached[0].opener.meter.clone()
    }

    /// Asks one question. Rows are computed as the answer is read.
    ///
    /// # Errors
    /// [`QueryError::NotAQuestion`] for anything that would change something, [`QueryError::Table`] and
    /// [`QueryError::Column`] with the nearest name for one that does not exist, [`QueryError::Sql`] for the rest.
    pub async fn run(&self, sql: &str) -> Result<Answer> {
        self.answered(sql, |_| Ok(())).await
    }

    /// As [`Session::run`], for a question that has the same answer whenever it is asked at the same commit.
    ///
    /// # Errors
    /// As [`Session::run`]; [`QueryError::Varies`] with a function in it that gives another value each time.
    pub async fn run_repeatable(&self, sql: &str) -> Result<Answer> {
        let check = |plan: &LogicalPlan| match varying_in(plan).map_err(|error| self.explain(&error))? {
            Some(function) => Err(QueryError::Varies { function }),
            None => Ok(()),
        };
        self.answered(sql, check).await
    }

    /// The answer to a question whose plan passes `check`.
    async fn answered(&self, sql: &str, check: impl Fn(&LogicalPlan) -> Result<()>) -> Result<Answer> {
        self.meter().begin();
        let statement = only_one(DFParser::parse_sql(sql).map_err(|error| self.explain(&error))?)?;
        refuse_unless_question(&statement)?;
        let state = self.context.state();
        for table in state.resolve_table_references(&statement).map_err(|error| self.explain(&error))? {
            self.check_table(&table)?;
        }
        if let Some(described) = self.described(&statement) {
            return self.answer(described?).await;
        }
        // A text that merely mentions the function reads the tokenizer in vain.
        if statement.to_string().to_lowercase().contains("detokenize") {
            let first = &self.attached[0].opener;
            first.tokenizer.load(&first.store).await?;
        }
        let is_explain = is_explain(&statement);
        let plan = state.statement_to_plan(statement).await.map_err(|error| self.explain(&error))?;
        only_reads().verify_plan(&plan).map_err(|error| self.explain(&error))?;
        check(&plan)?;
        let answer = Answer::new(execute(state, plan).await.map_err(|error| self.explain(&error))?);
        match is_explain {
            true => self.answer(describe::plan_lines(&answer.collect().await?)?).await,
            false => Ok(answer),
        }
    }

    fn is_alone(&self) -> bool {
        self.attached.len() == 1 && self.attached[0].name == ALONE
    }

    /// What the table holds, by its name and, where there are several stores, its schema's.
    fn schema_of(&self, schema: Option<&str>, table: &str) -> Option<&SchemaRef> {
        let schema = schema.or_else(|| self.is_alone().then_some(ALONE))?;
        self.attached.iter().find(|store| store.name == schema)?.schemas.get(table)
    }

    fn check_table(&self, reference: &TableReference) -> Result<()> {
        let (schema, table) = (reference.schema(), reference.table());
        let is_ours =
            schema != Some("information_schema") && reference.catalog().is_none_or(|catalog| catalog == CATALOG);
        if !is_ours || self.schema_of(schema, table).is_some() || in_score_set::is_one(table) {
            return Ok(());
        }
        let of_table = |store: &Attached| did_you_mean(table, "tables", store.schemas.keys().copied());
        let stores = || self.attached.iter().map(|store| store.name.as_str());
        let hint = match schema {
            None if self.is_alone() => of_table(&self.attached[0]),
            None => {
                let having: Vec<String> =
                    self.tables().map(|(name, _)| name).filter(|name| name.ends_with(&format!(".{table}"))).collect();
                match having.is_empty() {
                    true => format!(
                        "{} In which store is said before it: `{}.steps`",
                        of_table(&self.attached[0]),
                        self.attached[0].name
                    ),
                    false => format!("say in which store: {}", having.join(", ")),
                }
            }
            Some(schema) => match self.attached.iter().find(|store| store.name == schema) {
                Some(store) => of_table(store),
                None => format!("`{schema}` is no store here; {}", did_you_mean(schema, "stores", stores())),
            },
        };
        let schema = schema.filter(|schema| !(self.is_alone() && *schema == ALONE));
        let name = schema.map_or_else(|| table.to_string(), |schema| format!("{schema}.{table}"));
        Err(QueryError::Table { name, hint })
    }

    /// The answer to `describe TABLE`, `show tables` and `show functions`, with the sentences of what is there.
    fn described(&self, statement: &Statement) -> Option<Result<RecordBatch>> {
        use ast::Statement::{ExplainTable, ShowFunctions, ShowTables};
        let Statement::Statement(statement) = statement else { return None };
        let batch = match statement.as_ref() {
            ExplainTable { table_name, .. } => {
                let name = table_name.to_string().to_lowercase().replace('"', "");
                let (schema, table) = name.rsplit_once('.').map_or((None, name.as_str()), |(a, b)| (Some(a), b));
                describe::columns(self.schema_of(schema, table)?)
            }
            ShowTables { show_options, .. } if show_options.filter_position.is_none() => {
                describe::tables(self.tables())
            }
            ShowFunctions { filter: None } => describe::functions(),
            _ => return None,
        };
        Some(batch.map_err(QueryError::from))
    }

    async fn answer(&self, batch: RecordBatch) -> Result<Answer> {
        let frame = self.context.read_batch(batch).map_err(|error| self.explain(&error))?;
        Ok(Answer::new(frame.execute_stream().await.map_err(|error| self.explain(&error))?))
    }

    /// Puts an error of planning into words of the store's own tables.
    fn explain(&self, error: &DataFusionError) -> QueryError {
        use datafusion::common::SchemaError::FieldNotFound;
        match error.find_root() {
            DataFusionError::SchemaError(missing, _) => match missing.as_ref() {
                FieldNotFound { field, valid_fields } => {
                    let name = field.name();
                    let elsewhere = self.tables().find(|(_, schema)| schema.field_with_name(name).is_ok());
                    let here = did_you_mean(name, "columns", valid_fields.iter().map(|column| column.name()));
                    let hint = match elsewhere {
                        Some((table, _)) => format!("`{table}` has it; {here}"),
                        None => here,
                    };
                    QueryError::Column { name: name.into(), hint }
                }
                other => QueryError::Sql(other.to_string()),
            },
            root => QueryError::Sql(root.to_string()),
        }
    }
}
