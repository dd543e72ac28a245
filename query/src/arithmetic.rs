//! Arithmetic that fails where a number does not fit its type. The engine's own goes on with what is left of it.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray},
        compute::{
            CastOptions, cast_with_options,
            kernels::numeric::{add, mul, sub},
        },
        datatypes::{DataType, Field, FieldRef, TimeUnit},
    },
    common::{DFSchema, config::ConfigOptions, tree_node::Transformed},
    error::DataFusionError,
    execution::FunctionRegistry,
    functions_aggregate::sum::Sum,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, BinaryExpr, ColumnarValue, EmitTo, Expr,
        ExprSchemable, GroupsAccumulator, Operator, ReversedUDAF, ScalarFunctionArgs, ScalarUDF,
        ScalarUDFImpl, Signature, Volatility, cast,
        expr::{Cast, ScalarFunction},
        expr_rewriter::FunctionRewrite,
        function::{AccumulatorArgs, StateFieldsArgs},
    },
    scalar::ScalarValue,
};

type Result<T> = std::result::Result<T, DataFusionError>;

/// Puts checked arithmetic in place of the engine's.
pub(crate) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    registry.register_function_rewrite(Arc::new(Checked))?;
    registry
        .register_udaf(Arc::new(AggregateUDF::new_from_impl(CheckedSum { plain: Sum::new() })))?;
    Ok(())
}

/// Whole numbers are added, subtracted and multiplied by functions that look; dates and intervals make times.
#[derive(Debug)]
struct Checked;

impl FunctionRewrite for Checked {
    fn name(&self) -> &'static str {
        "checked arithmetic"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let whole = |expr: &Expr| expr.get_type(schema).is_ok_and(|t| t.is_integer());
        let date = |expr: &Expr| matches!(expr.get_type(schema), Ok(DataType::Date32));
        let span = |expr: &Expr| matches!(expr.get_type(schema), Ok(DataType::Interval(_)));
        let time = |expr: Box<Expr>| {
            Box::new(cast(*expr, DataType::Timestamp(TimeUnit::Microsecond, None)))
        };
        let call = |kind, args| {
            let func = Arc::new(ScalarUDF::new_from_impl(Arithmetic::new(kind)));
            Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args }))
        };
        Ok(match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match Kind::of(op) {
                Some(kind) if whole(&left) && whole(&right) => call(kind, vec![*left, *right]),
                // A day and some hours are a time, not a day.
                Some(Kind::Plus | Kind::Minus) if date(&left) && span(&right) => {
                    Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(time(left), op, right)))
                }
                Some(Kind::Plus) if span(&left) && date(&right) => {
                    Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left, op, time(right))))
                }
                _ => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            },
            Expr::ScalarFunction(round) if round.name() == "round" => match rounded(&round, schema)
            {
                Some(to) => Transformed::yes(cast(Expr::ScalarFunction(round), to)),
                None => Transformed::no(Expr::ScalarFunction(round)),
            },
            // To the nearest whole number; the engine cuts.
            Expr::Cast(to) if to.field.data_type().is_integer() => {
                match nearest(&to.expr, schema) {
                    Some(whole) => {
                        let nearest = Expr::ScalarFunction(ScalarFunction {
                            func: datafusion::functions::math::round(),
                            args: vec![*to.expr],
                        });
                        let nearest = Box::new(cast(nearest, whole));
                        Transformed::yes(Expr::Cast(Cast { expr: nearest, ..to }))
                    }
                    None => Transformed::no(Expr::Cast(to)),
                }
            }
            Expr::Negative(number) if whole(&number) => {
                let zero = ScalarValue::new_zero(&number.get_type(schema)?)?;
                call(Kind::Minus, vec![Expr::Literal(zero, None), *number])
            }
            other => Transformed::no(other),
        })
    }
}

/// The type of a decimal number without its digits.
fn nearest(number: &Expr, schema: &DFSchema) -> Option<DataType> {
    match number.get_type(schema).ok()? {
        DataType::Decimal128(precision, scale) if scale > 0 => {
            let whole = i16::from(precision) - i16::from(scale) + 1;
            Some(DataType::Decimal128(u8::try_from(whole.clamp(1, 38)).ok()?, 0))
        }
        _ => None,
    }
}

/// The type of a decimal number that was rounded, which the engine changes its mind about while it plans.
fn rounded(round: &ScalarFunction, schema: &DFSchema) -> Option<DataType> {
    let DataType::Decimal128(precision, scale) = round.args[0].get_type(schema).ok()? else {
        return None;
    };
    let digits = match round.args.get(1) {
        None => 0,
        Some(Expr::Literal(digits, _)) => match digits.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(Some(digits)) => i8::try_from(digits.clamp(0, 38)).ok()?,
            _ => return None,
        },
        Some(_) => return None,
    };
    let whole = i16::from(precision) - i16::from(scale) + 1;
    let precision = (whole + i16::from(digits)).clamp(1, 38);
    Some(DataType::Decimal128(u8::try_from(precision).ok()?, digits))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Plus,
    Minus,
    Times,
}

impl Kind {
    fn of(operator: Operator) -> Option<Self> {
        match operator {
            Operator::Plus => Some(Self::Plus),
            Operator::Minus => Some(Self::Minus),
            Operator::Multiply => Some(Self::Times),
            _ => None,
        }
    }
}

/// One operation on whole numbers of one type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Arithmetic {
    kind: Kind,
    signature: Signature,
}

impl Arithmetic {
    fn new(kind: Kind) -> Self {
        Self { kind, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// How wide a whole number is, as SQL counts: what has no sign takes the next width.
fn wider(one: &DataType, other: &DataType) -> DataType {
    let rank = |t: &DataType| match t {
        DataType::Int8 => 0,
        DataType::Int16 | DataType::UInt8 => 1,
        DataType::Int32 | DataType::UInt16 => 2,
        _ => 3,
    };
    match rank(one).max(rank(other)) {
        0 => DataType::Int8,
        1 => DataType::Int16,
        2 => DataType::Int32,
        _ => DataType::Int64,
    }
}

impl ScalarUDFImpl for Arithmetic {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Plus => "plus",
            Kind::Minus => "minus",
            Kind::Times => "times",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [one, other] => Ok(vec![wider(one, other); 2]),
            _ => Err(DataFusionError::Internal("arithmetic takes two numbers".to_owned())),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = &args.args[..] else {
            return Err(DataFusionError::Internal("arithmetic takes two numbers".to_owned()));
        };
        let operation = match self.kind {
            Kind::Plus => add,
            Kind::Minus => sub,
            Kind::Times => mul,
        };
        datafusion::physical_expr_common::datum::apply(left, right, operation)
    }
}

/// `sum` in a type so wide that nothing is lost on the way, and back to the type that SQL says.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    plain: Sum,
}

/// The type in which values of a type are summed; `None` where their own is as good.
fn wide(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Int64 | DataType::UInt64 => Some(DataType::Decimal128(38, 0)),
        DataType::Decimal32(_, s) | DataType::Decimal64(_, s) => Some(DataType::Decimal128(38, *s)),
        DataType::Decimal128(_, s) => Some(DataType::Decimal256(76, *s)),
        _ => None,
    }
}

fn exactly(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(array, to, &options)?)
}

fn all(arrays: &[ArrayRef], to: &DataType) -> Result<Vec<ArrayRef>> {
    arrays.iter().map(|array| exactly(array, to)).collect()
}

/// Types of one sum.
#[derive(Debug)]
struct Types {
    summed: DataType,
    result: DataType,
}

impl CheckedSum {
    /// Has the engine's sum do the work in the wider type.
    fn widened<T>(
        &self,
        args: AccumulatorArgs<'_>,
        make: impl FnOnce(&Sum, AccumulatorArgs<'_>) -> Result<T>,
    ) -> Result<(T, Option<Types>)> {
        let result = args.return_field.data_type().clone();
        let Some(summed) = wide(args.expr_fields[0].data_type()) else {
            return Ok((make(&self.plain, args)?, None));
        };
        let field: FieldRef = Arc::new(Field::new(args.name, summed.clone(), true));
        let fields = [Arc::clone(&field)];
        let made = make(
            &self.plain,
            AccumulatorArgs { return_field: field, expr_fields: &fields, ..args },
        );
        Ok((made?, Some(Types { summed, result })))
    }
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.plain.name()
    }

    fn signature(&self) -> &Signature {
        self.plain.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match &types[0] {
            DataType::UInt64 => Ok(DataType::Int64),
            _ => self.plain.return_type(types),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        match wide(args.input_fields[0].data_type()) {
            Some(summed) => {
                let return_field = Arc::new(Field::new(args.name, summed, true));
                self.plain.state_fields(StateFieldsArgs { return_field, ..args })
            }
            None => self.plain.state_fields(args),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let (inner, types) = self.widened(args, AggregateUDFImpl::accumulator)?;
        Ok(match types {
            Some(types) => Box::new(One { inner, types }),
            None => inner,
        })
    }

    fn create_sliding_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            let what = "SUM(DISTINCT …) over a moving frame".to_owned();
            return Err(DataFusionError::NotImplemented(what));
        }
        let (inner, types) = self.widened(args, AggregateUDFImpl::create_sliding_accumulator)?;
        Ok(match types {
            Some(types) => Box::new(One { inner, types }),
            None => inner,
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.plain.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let (inner, types) = self.widened(args, AggregateUDFImpl::create_groups_accumulator)?;
        Ok(match types {
            Some(types) => Box::new(Groups { inner, types }),
            None => inner,
        })
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.plain.reverse_expr()
    }
}

/// One sum.
#[derive(Debug)]
struct One {
    inner: Box<dyn Accumulator>,
    types: Types,
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(&all(values, &self.types.summed)?)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = self.inner.evaluate()?.to_array()?;
        ScalarValue::try_from_array(&exactly(&sum, &self.types.result)?, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(&all(values, &self.types.summed)?)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}

/// A sum for each group.
struct Groups {
    inner: Box<dyn GroupsAccumulator>,
    types: Types,
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        self.inner.update_batch(&all(values, &self.types.summed)?, groups, filter, count)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        exactly(&self.inner.evaluate(emit_to)?, &self.types.result)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit_to)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.inner.merge_batch(values, groups, count)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(&all(values, &self.types.summed)?, filter)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
