//! `scored_in('SET')` and `tokens_in('SET')`: the tables `scored` and `tokens` of any score set. A function has no schema in front of its
//! name, so where there are several stores the first argument says which: `scored_in('a', 'SET')`.

use crate::{
    attached::Attached,
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

/// Makes the functions known, for these stores.
pub(crate) fn register(context: &SessionContext, attached: &[Attached]) {
    let stores: Arc<[Of]> = attached
        .iter()
        .map(|of| Of { name: of.name.clone(), log: of.log.clone(), opener: of.opener.clone() })
        .collect();
    for (name, table) in FUNCTIONS {
        context.register_udtf(name, Arc::new(InScoreSet { name, table, stores: stores.clone() }));
    }
}

/// A store of the session.
struct Of {
    name: String,
    log: Arc<Log>,
    opener: Opener,
}

struct InScoreSet {
    name: &'static str,
    table: Table,
    /// At least one.
    stores: Arc<[Of]>,
}

impl fmt::Debug for InScoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl InScoreSet {
    /// The store and the score set that a call names: where there is one store, the set alone.
    fn named<'a>(&self, args: &'a [Expr]) -> Result<(&Of, &'a str)> {
        let texts: Option<Vec<&str>> = args.iter().map(text).collect();
        let call = self.name;
        match (&*self.stores, texts.as_deref()) {
            ([alone], Some([set])) => Ok((alone, set)),
            ([_], _) => {
                Err(DataFusionError::Plan(format!("{call}: expected the name of one score set, as in {call}('main')")))
            }
            (stores, Some([store, set])) => {
                let names = || stores.iter().map(|of| of.name.as_str());
                let lacks = || {
                    let hint = did_you_mean(store, "stores", names());
                    DataFusionError::Plan(format!("{call}: `{store}` is no store here\nhint: {hint}"))
                };
                stores.iter().find(|of| of.name == **store).map(|of| (of, *set)).ok_or_else(lacks)
            }
            (stores, _) => Err(DataFusionError::Plan(format!(
                "{call}: expected the names of a store and of one of its score sets, as in {call}('{}', 'main')",
                stores[0].name
            ))),
        }
    }
}

/// A text that is written out.
fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)), _) => Some(text),
        _ => None,
    }
}

impl TableFunctionImpl for InScoreSet {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let (of, set) = self.named(args.exprs())?;
        if of.log.holds(set).is_none() {
            let names: Vec<&str> = of.log.score_sets().map(|(name, ..)| name).collect();
            let hint = did_you_mean(set, "score sets", names.into_iter());
            return Err(DataFusionError::Plan(format!("there is no score set `{set}`\nhint: {hint}")));
        }
        Ok(Arc::new(ObjectProvider::new((self.table)(&of.log, Some(set)), of.opener.clone())))
    }
}
