//! One store under its name: its log up to a commit, laid out as tables.

use crate::{
    QueryError, Result, kept::Kept, log::Log, log_scan::LogProvider, parts::object_tables, reader::Opener,
    scan::ObjectProvider, tables::LOG_TABLES, views::VIEWS,
};
use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{MemorySchemaProvider, SchemaProvider, TableProvider, view::ViewTable},
    error::{DataFusionError, Result as PlanResult},
    prelude::SessionContext,
};
use std::{collections::BTreeMap, sync::Arc};
use store::Store;

/// The catalog in which each store is a schema.
pub(crate) const CATALOG: &str = "opd";

/// A store that can be asked.
#[derive(Clone)]
pub(crate) struct Attached {
    /// The schema that its tables are in.
    pub name: String,
    pub log: Arc<Log>,
    /// The run that it replays, or why that cannot be read; none where it is no replay.
    pub parent: Option<std::result::Result<Parent, String>>,
    pub opener: Opener,
    /// What was made of the log so far.
    pub kept: Kept,
    /// Whether the log is followed to its end.
    pub is_live: bool,
    /// What each table holds, with the sentences about it; none before it was laid out.
    pub schemas: BTreeMap<&'static str, SchemaRef>,
}

/// The run whose rows another one replays.
#[derive(Clone)]
pub(crate) struct Parent {
    pub store: Store,
    pub log: Arc<Log>,
}

impl Parent {
    /// The parent of the run in `store`, whose log is `log`.
    pub async fn of(log: &Log, store: &Store) -> Option<std::result::Result<Self, String>> {
        let named = log.run().parent.clone()?;
        let read = async {
            let store = Store::open(&named.url, store.options().clone()).await?;
            let log = Log::new(store.history(None).await?, Some(named.seq))?;
            match log.run().run_id == named.run_id {
                true => Ok(Self { store, log: Arc::new(log) }),
                false => Err(QueryError::Run("another run is there now".into())),
            }
        };
        Some(read.await.map_err(|error| format!("the run replays `{}`, which cannot be read: {error}", named.url)))
    }
}

impl Attached {
    /// The same with what was appended to the log since it was read, if anything was.
    pub async fn refreshed(&self) -> Result<Option<Self>> {
        if !self.is_live {
            return Ok(None);
        }
        let new = self.opener.store.commits_from(self.log.last_seq() + 1).await?;
        if new.is_empty() {
            return Ok(None);
        }
        let mut log = self.log.as_ref().clone();
        log.extend(new)?;
        if let Some(Ok(parent)) = &self.parent {
            log.borrow_from(&parent.log);
        }
        Ok(Some(Self { log: Arc::new(log), kept: self.kept.after_more(&LOG_TABLES), ..self.clone() }))
    }

    /// Registers its tables as a schema of `context`.
    pub async fn lay_out(&mut self, context: &SessionContext) -> PlanResult<()> {
        let schema = Arc::new(MemorySchemaProvider::new());
        let mut schemas = BTreeMap::new();
        let mut add = |name: &'static str, described: SchemaRef, table: Arc<dyn TableProvider>| {
            schemas.insert(name, described);
            schema.register_table(name.into(), table)
        };
        for table in object_tables(&self.log) {
            let described = table.schema.clone();
            add(table.name, described, Arc::new(ObjectProvider::new(table, self.opener.clone())))?;
        }
        for table in LOG_TABLES {
            let provider = LogProvider::new(table, self.log.clone(), self.kept.clone())?;
            add(table.name, provider.described(), Arc::new(provider))?;
        }
        let catalog =
            context.catalog(CATALOG).ok_or_else(|| DataFusionError::Internal("the catalog is gone".into()))?;
        catalog.register_schema(&self.name, schema.clone())?;
        for view in VIEWS {
            // Its plan finds the tables that were registered above.
            let sql = view.sql(&self.name);
            let plan = context.state().create_logical_plan(&sql).await?;
            let table = ViewTable::new(plan, Some(sql));
            schemas.insert(view.name, view.described(&table.schema()));
            schema.register_table(view.name.into(), Arc::new(table))?;
        }
        self.schemas = schemas;
        Ok(())
    }
}
