//! Whether a question asked twice of the same commits has the same answer: not if a function in it gives another value each time.

use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    error::DataFusionError,
    logical_expr::{Expr, LogicalPlan, Volatility},
};

/// The function that `expr` itself calls, if it gives another value each time: `random`, and `now`, which is one within a question and
/// another in the next.
pub(crate) fn varying(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::ScalarFunction(of) if of.func.signature().volatility != Volatility::Immutable => Some(of.func.name()),
        _ => None,
    }
}

/// The first such function anywhere in a plan that is not yet optimised, subqueries included.
pub(crate) fn varying_in(plan: &LogicalPlan) -> Result<Option<String>, DataFusionError> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                found = varying(expr).map(str::to_string);
                Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    Ok(found)
}
