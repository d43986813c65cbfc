//! What a statement is, before it is planned.

use crate::{QueryError, Result};
use datafusion::{
    prelude::SQLOptions,
    sql::{parser::Statement, sqlparser::ast},
};
use std::collections::VecDeque;

/// The one statement there is.
pub(crate) fn only_one(mut statements: VecDeque<Statement>) -> Result<Statement> {
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (first, more) => Err(QueryError::OneStatement { found: more + usize::from(first.is_some()) }),
    }
}

/// Whether it asks how another would be answered.
pub(crate) fn is_explain(statement: &Statement) -> bool {
    match statement {
        Statement::Explain(_) => true,
        Statement::Statement(statement) => matches!(statement.as_ref(), ast::Statement::Explain { .. }),
        _ => false,
    }
}

/// Plans of such a kind are asked: none that would change anything.
pub(crate) fn only_reads() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

/// Lets only what reads pass.
pub(crate) fn refuse_unless_question(statement: &Statement) -> Result<()> {
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
