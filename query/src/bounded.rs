//! Functions within bounds. What a function makes is no part of the engine's account of memory, and a few bytes of SQL can ask for
//! any number of them: so what a call may make is worked out before it runs.

mod estimate;

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::ArrayRef,
        compute::{concat, kernels::concat_elements::concat_elements_dyn},
        datatypes::{DataType, FieldRef},
    },
    common::{DFSchema, config::ConfigOptions, tree_node::Transformed},
    error::DataFusionError,
    execution::FunctionRegistry,
    logical_expr::{
        BinaryExpr, ColumnarValue, Documentation, Expr, ExprSchemable, Operator, ReturnFieldArgs,
        ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, expr::ScalarFunction,
        expr_rewriter::FunctionRewrite, type_coercion::binary::BinaryTypeCoercer,
    },
    scalar::ScalarValue,
};

use crate::{error::QueryError, limits::CALL_BYTES_MAX};
use estimate::{Given, Work, bytes_of};

type Result<T> = std::result::Result<T, DataFusionError>;

/// Has the engine call its functions within bounds.
pub(crate) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    registry.register_function_rewrite(Arc::new(Bound))
}

#[derive(Debug)]
struct Bound;

impl FunctionRewrite for Bound {
    fn name(&self) -> &'static str {
        "bounded functions"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let call = |func, args| {
            Transformed::yes(Expr::ScalarFunction(ScalarFunction { func: Arc::new(func), args }))
        };
        let work = match &expr {
            Expr::ScalarFunction(call) => {
                Work::of(call.name(), expr.get_type(schema).ok().as_ref())
            }
            _ => None,
        };
        Ok(match (expr, work) {
            (Expr::ScalarFunction(ScalarFunction { func, args }), Some(work)) => {
                call(ScalarUDF::new_from_impl(Bounded { inner: func, work }), args)
            }
            (Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }), _) => {
                call(ScalarUDF::new_from_impl(Joined::new()), vec![*left, *right])
            }
            (other, _) => Transformed::no(other),
        })
    }
}

/// One of the engine's functions, by its name and with its types.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    work: Work,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(types)
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let invoke = |args| self.inner.invoke_with_args(args);
        within(self.name(), self.work, args, &invoke)
    }
}

/// `||` of texts and bytes.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Joined {
    signature: Signature,
}

impl Joined {
    fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Joined {
    fn name(&self) -> &'static str {
        "||"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = types else { return Err(takes_two()) };
        let coercer = BinaryTypeCoercer::new(left, &Operator::StringConcat, right);
        coercer.get_input_types().map(|(left, right)| vec![left, right])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [left, right] = types else { return Err(takes_two()) };
        BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_result_type()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let invoke = |args: ScalarFunctionArgs| {
            let [left, right] = &args.args[..] else { return Err(takes_two()) };
            let alone = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
            let rows = if alone { 1 } else { args.number_rows };
            let joined = concat_elements_dyn(&*left.to_array(rows)?, &*right.to_array(rows)?)?;
            Ok(if alone {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?)
            } else {
                ColumnarValue::Array(joined)
            })
        };
        within("||", Work::Linear(1), args, &invoke)
    }
}

fn takes_two() -> DataFusionError {
    DataFusionError::Internal("|| takes two values".to_owned())
}

/// Calls a function for all rows at once where that is sure to make no more than a call may, else for some of them after the
/// others, until it has made too much.
fn within(
    name: &str,
    work: Work,
    args: ScalarFunctionArgs,
    invoke: &dyn Fn(ScalarFunctionArgs) -> Result<ColumnarValue>,
) -> Result<ColumnarValue> {
    let arrays = args.args.iter().any(|a| matches!(a, ColumnarValue::Array(_)));
    let rows = if arrays { args.number_rows } else { 1 };
    if work.fits(&Given { args: &args.args, rows })? {
        let made = invoke(args)?;
        let bytes = match &made {
            ColumnarValue::Array(array) => bytes_of(array),
            ColumnarValue::Scalar(value) => value.size(),
        };
        return if bytes > CALL_BYTES_MAX { Err(too_much(name)) } else { Ok(made) };
    }
    if rows < 2 {
        return Err(too_much(name));
    }
    let (mut parts, mut bytes): (Vec<ArrayRef>, usize) = (Vec::new(), 0);
    let half = rows / 2;
    for (from, count) in [(0, half), (half, rows - half)] {
        let part = ScalarFunctionArgs {
            args: args.args.iter().map(|value| slice(value, from, count)).collect(),
            arg_fields: args.arg_fields.clone(),
            number_rows: count,
            return_field: Arc::clone(&args.return_field),
            config_options: Arc::clone(&args.config_options),
        };
        let made = within(name, work, part, invoke)?.into_array(count)?;
        bytes += bytes_of(&made);
        if bytes > CALL_BYTES_MAX {
            return Err(too_much(name));
        }
        parts.push(made);
    }
    let parts: Vec<_> = parts.iter().map(|part| &**part).collect();
    Ok(ColumnarValue::Array(concat(&parts)?))
}

fn slice(value: &ColumnarValue, from: usize, count: usize) -> ColumnarValue {
    match value {
        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(from, count)),
        ColumnarValue::Scalar(value) => ColumnarValue::Scalar(value.clone()),
    }
}

fn too_much(name: &str) -> DataFusionError {
    let what = format!(
        "one call of {name} for some rows would make more than {} MiB, or take too many steps",
        CALL_BYTES_MAX >> 20
    );
    DataFusionError::External(Box::new(QueryError::Limit { limit: "sql_call", what }))
}
