//! `scored_in('SET')` and `tokens_in('SET')`: the tables `scored` and `tokens` of any score set.

use crate::{
    hint::did_you_mean,
    log::Log,
    parts::{ObjectTable, scored},
    reader::Opener,
    scan::ObjectProvider,
    tokens::tokens,
};
use datafusion::{
    catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider},
    common::ScalarValue,
    error::{DataFusionError, Result},
    logical_expr::Expr,
    prelude::SessionContext,
};
use std::{fmt, sync::Arc};

type Table = fn(&Log, Option<&str>) -> ObjectTable;

/// Each function with the table that it is.
const FUNCTIONS: [(&str, Table); 2] = [("scored_in", scored), ("tokens_in", tokens)];

/// Whether a relation of that name is a call of one of these.
pub(crate) fn is_one(name: &str) -> bool {
    FUNCTIONS.iter().any(|(function, _)| *function == name)
}

/// Makes the functions known, for the store of `log`.
pub(crate) fn register(context: &SessionContext, log: &Arc<Log>, opener: &Opener) {
    for (name, table) in FUNCTIONS {
        let function = InScoreSet { name, table, log: log.clone(), opener: opener.clone() };
        context.register_udtf(name, Arc::new(function));
    }
}

struct InScoreSet {
    name: &'static str,
    table: Table,
    log: Arc<Log>,
    opener: Opener,
}

impl fmt::Debug for InScoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl TableFunctionImpl for InScoreSet {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let set = match args.exprs() {
            [Expr::Literal(ScalarValue::Utf8(Some(set)) | ScalarValue::Utf8View(Some(set)), _)] => set,
            _ => {
                let what = format!("{0}: expected the name of one score set, as in {0}('main')", self.name);
                return Err(DataFusionError::Plan(what));
            }
        };
        if self.log.holds(set).is_none() {
            let names: Vec<&str> = self.log.score_sets().map(|(name, ..)| name).collect();
            let hint = did_you_mean(set, "score sets", names.into_iter());
            return Err(DataFusionError::Plan(format!("there is no score set `{set}`\nhint: {hint}")));
        }
        Ok(Arc::new(ObjectProvider::new((self.table)(&self.log, Some(set)), self.opener.clone())))
    }
}
