//! `IN` over a list of more than constants. The engine tries each one on no rows, and takes a `CASE` for a constant then.

use std::sync::Arc;

use datafusion::{
    common::{DFSchema, config::ConfigOptions, tree_node::Transformed},
    error::DataFusionError,
    execution::FunctionRegistry,
    logical_expr::{Expr, expr::InList, expr_rewriter::FunctionRewrite},
};

/// Has such lists compared one by one, which is what they stand for.
pub(crate) fn register(registry: &mut dyn FunctionRegistry) -> Result<(), DataFusionError> {
    registry.register_function_rewrite(Arc::new(OneByOne))
}

#[derive(Debug)]
struct OneByOne;

impl FunctionRewrite for OneByOne {
    fn name(&self) -> &'static str {
        "lists of more than constants"
    }

    fn rewrite(
        &self,
        expr: Expr,
        _: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>, DataFusionError> {
        let Expr::InList(InList { expr, list, negated }) = expr else {
            return Ok(Transformed::no(expr));
        };
        // What changes with each look is looked at once.
        if list.iter().all(is_constant) || expr.is_volatile() {
            return Ok(Transformed::no(Expr::InList(InList { expr, list, negated })));
        }
        let each = list.into_iter().map(|value| {
            if negated { (*expr).clone().not_eq(value) } else { (*expr).clone().eq(value) }
        });
        let all = each.reduce(|a, b| if negated { a.and(b) } else { a.or(b) });
        all.map(Transformed::yes)
            .ok_or_else(|| DataFusionError::Internal("a list has something in it".to_owned()))
    }
}

fn is_constant(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(..) | Expr::Placeholder(_) => true,
        Expr::Cast(cast) => is_constant(&cast.expr),
        Expr::Negative(expr) => is_constant(expr),
        _ => false,
    }
}
