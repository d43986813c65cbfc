//! One store at one commit, ready for questions.

use crate::{
    Answer, QueryError, Result, describe, functions, hint::did_you_mean, in_score_set, log::Log, log_scan::LogProvider,
    parts::object_tables, reader::Opener, scan::ObjectProvider, tables::LOG_TABLES, tokenizer::RunTokenizer,
    views::VIEWS,
};
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{
    catalog::{TableProvider, view::ViewTable},
    error::DataFusionError,
    execution::{
        memory_pool::{FairSpillPool, TrackConsumersPool},
        runtime_env::RuntimeEnvBuilder,
    },
    prelude::{SQLOptions, SessionConfig, SessionContext},
    sql::{
        parser::{DFParser, Statement},
        sqlparser::ast,
    },
};
use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use store::Store;

/// What a query may hold in memory at once unless it is said, in bytes.
const MEMORY: usize = 1 << 30;
/// Threads' worth of work of one query.
const PARTITIONS: usize = 2;
/// Rows that operators hand on at once: few, because a rollout may weigh a megabyte.
const BATCH_ROWS: usize = 512;

/// A store at one commit.
pub struct Session {
    context: SessionContext,
    schemas: BTreeMap<&'static str, SchemaRef>,
    opener: Opener,
    without: Option<String>,
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
    let log = read(store, at).await?;
    let Some(parent) = log.run().parent.clone() else { return Session::new(log, store.clone(), None, memory).await };
    let of_parent = async {
        let store = Store::open(&parent.url, store.options().clone()).await?;
        let log = read(&store, Some(parent.seq)).await?;
        match log.run().run_id == parent.run_id {
            true => Ok::<_, QueryError>((store, log)),
            false => Err(QueryError::Run("another run is there now".into())),
        }
    };
    match of_parent.await {
        Ok((of, parent)) => Session::new(log.with_parent(parent), store.clone(), Some(of), memory).await,
        Err(error) => {
            let mut session = Session::new(log, store.clone(), None, memory).await?;
            session.without = Some(format!("the run replays `{}`, which cannot be read: {error}", parent.url));
            Ok(session)
        }
    }
}

async fn read(store: &Store, at: Option<u64>) -> Result<Log> {
    let commits = store.history(None).await?;
    if commits.last().is_some_and(|last| at.is_some_and(|at| last.seq < at)) {
        // Says where the log ends.
        store.history(at).await?;
    }
    Log::new(commits, at)
}

impl Session {
    async fn new(log: Log, store: Store, parent: Option<Store>, memory: usize) -> Result<Self> {
        let failed = |error: DataFusionError| QueryError::Run(error.to_string());
        // Naming the consumers makes "out of memory" say who needs it.
        let top = const { NonZeroUsize::new(3).expect("3 is not 0") };
        let pool = Arc::new(TrackConsumersPool::new(FairSpillPool::new(memory), top));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().map_err(failed)?;
        let config = SessionConfig::new()
            .with_target_partitions(PARTITIONS)
            .with_batch_size(BATCH_ROWS)
            // Each sort keeps this back for merging what it spilt; the default suits a larger memory.
            .with_sort_spill_reservation_bytes((memory / 16).min(10 << 20))
            .with_information_schema(true)
            .with_default_catalog_and_schema("opd", "store");
        let context = SessionContext::new_with_config_rt(config, runtime);
        let tokenizer = Arc::new(RunTokenizer::new(log.run().student_tokenizer.clone()));
        for function in functions::scalar_functions(&log, tokenizer.clone()) {
            context.register_udf(function);
        }
        for function in functions::aggregates() {
            context.register_udaf(function);
        }
        let opener = Opener { store, parent, opened: Arc::new(AtomicU64::new(0)), tokenizer };
        let mut schemas = BTreeMap::new();
        let mut add = |name: &'static str, provider: Arc<dyn TableProvider>| {
            schemas.insert(name, provider.schema());
            context.register_table(name, provider).map(|_| ()).map_err(failed)
        };
        for table in object_tables(&log) {
            add(table.name, Arc::new(ObjectProvider { table, opener: opener.clone() }))?;
        }
        let log = Arc::new(log);
        in_score_set::register(&context, &log, &opener);
        for table in LOG_TABLES {
            add(table.name, Arc::new(LogProvider::new(table, log.clone()).map_err(failed)?))?;
        }
        for view in VIEWS {
            let plan = context.state().create_logical_plan(view.sql).await.map_err(failed)?;
            let table = Arc::new(ViewTable::new(plan, Some(view.sql.into())));
            schemas.insert(view.name, view.described(&table.schema()));
            context.register_table(view.name, table).map_err(failed)?;
        }
        Ok(Self { context, schemas, opener, without: None })
    }

    /// The tables by name; table and column metadata `comment` says what each holds.
    pub fn tables(&self) -> impl Iterator<Item = (&'static str, &SchemaRef)> {
        self.schemas.iter().map(|(name, schema)| (*name, schema))
    }

    /// Why the rows of a parent are not there: `rollouts`, `scores`, `scored` and `tokens` are then empty of them.
    pub fn without(&self) -> Option<&str> {
        self.without.as_deref()
    }

    /// How many batches and step records the queries of this session have opened so far.
    pub fn objects_opened(&self) -> u64 {
        self.opener.opened.load(Ordering::Relaxed)
    }

    /// Asks one question. Rows are computed as the answer is read.
    ///
    /// # Errors
    /// [`QueryError::NotAQuestion`] for anything that would change something, [`QueryError::Table`] and
    /// [`QueryError::Column`] with the nearest name for one that does not exist, [`QueryError::Sql`] for the rest.
    pub async fn run(&self, sql: &str) -> Result<Answer> {
        let statement = only_one(DFParser::parse_sql(sql).map_err(|error| self.explain(&error))?)?;
        refuse_unless_question(&statement)?;
        let state = self.context.state();
        for table in state.resolve_table_references(&statement).map_err(|error| self.explain(&error))? {
            let is_ours = table.schema().is_none_or(|schema| schema == "store");
            if is_ours && !self.schemas.contains_key(table.table()) && !in_score_set::is_one(table.table()) {
                let hint = did_you_mean(table.table(), "tables", self.schemas.keys().copied());
                return Err(QueryError::Table { name: table.table().into(), hint });
            }
        }
        if let Some(described) = self.described(&statement) {
            return self.answer(described?).await;
        }
        // A text that merely mentions the function reads the tokenizer in vain.
        if statement.to_string().to_lowercase().contains("detokenize") {
            self.opener.tokenizer.load(&self.opener.store).await?;
        }
        let is_explain = is_explain(&statement);
        let plan = state.statement_to_plan(statement).await.map_err(|error| self.explain(&error))?;
        let only_reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        only_reads.verify_plan(&plan).map_err(|error| self.explain(&error))?;
        let frame = self.context.execute_logical_plan(plan).await.map_err(|error| self.explain(&error))?;
        let stream = frame.execute_stream().await.map_err(|error| self.explain(&error))?;
        let answer = Answer::new(stream);
        match is_explain {
            true => self.answer(describe::plan_lines(&answer.collect().await?)?).await,
            false => Ok(answer),
        }
    }

    /// The answer to `describe TABLE`, `show tables` and `show functions`, with the sentences of what is there.
    fn described(&self, statement: &Statement) -> Option<Result<RecordBatch>> {
        use ast::Statement::{ExplainTable, ShowFunctions, ShowTables};
        let Statement::Statement(statement) = statement else { return None };
        let batch = match statement.as_ref() {
            ExplainTable { table_name, .. } => {
                let name = table_name.to_string().to_lowercase();
                describe::columns(self.schemas.get(name.trim_matches('"'))?)
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
                    let elsewhere = self.schemas.iter().find(|(_, schema)| schema.field_with_name(name).is_ok());
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

fn only_one(mut statements: VecDeque<Statement>) -> Result<Statement> {
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (first, more) => Err(QueryError::OneStatement { found: more + usize::from(first.is_some()) }),
    }
}

fn is_explain(statement: &Statement) -> bool {
    match statement {
        Statement::Explain(_) => true,
        Statement::Statement(statement) => matches!(statement.as_ref(), ast::Statement::Explain { .. }),
        _ => false,
    }
}

fn refuse_unless_question(statement: &Statement) -> Result<()> {
    use ast::Statement::{Explain, ExplainTable, Query, ShowColumns, ShowFunctions, ShowTables, ShowVariable};
    let asked = match statement {
        Statement::Explain(explain) => return refuse_unless_question(&explain.statement),
        Statement::Statement(statement) => matches!(
            statement.as_ref(),
            Query(_)
                | Explain { .. }
                | ExplainTable { .. }
                | ShowTables { .. }
                | ShowColumns { .. }
                | ShowFunctions { .. }
                | ShowVariable { .. }
        ),
        _ => false,
    };
    if asked {
        return Ok(());
    }
    let text = statement.to_string();
    let first = text.split_whitespace().next().unwrap_or_default();
    Err(QueryError::NotAQuestion { statement: first.to_uppercase() })
}
