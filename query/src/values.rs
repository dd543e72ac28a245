//! Parameters: `$1` and so on, typed by where they stand.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, StringArray},
        compute::{CastOptions, cast_with_options},
        datatypes::DataType,
    },
    common::{ParamValues, metadata::ScalarAndMetadata},
    error::DataFusionError,
    logical_expr::LogicalPlan,
    scalar::ScalarValue,
};
use serde_json::Value;

use crate::error::QueryError;

/// A value for a `$n`, as JSON has it.
pub type Parameter = Value;

/// Puts the parameters into a plan.
pub(crate) fn bind(plan: LogicalPlan, parameters: &[Parameter]) -> Result<LogicalPlan, QueryError> {
    let wanted = plan.get_parameter_types().map_err(QueryError::planning)?;
    if wanted.is_empty() {
        return Ok(plan);
    }
    for name in wanted.keys() {
        let number = number_of(name)
            .ok_or_else(|| QueryError::Meaning(format!("parameters are $1, $2 …, not {name}")))?;
        given(parameters, number)?;
    }
    let values: Result<Vec<ScalarAndMetadata>, QueryError> = parameters
        .iter()
        .enumerate()
        .map(|(i, value)| {
            let data_type = wanted.get(&format!("${}", i + 1)).and_then(Option::as_ref);
            scalar(i + 1, value, data_type).map(ScalarAndMetadata::from)
        })
        .collect();
    plan.with_param_values(ParamValues::List(values?)).map_err(QueryError::planning)
}

fn number_of(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse().ok().filter(|n| *n > 0)
}

/// A parameter by its number from 1.
pub(crate) fn given(parameters: &[Parameter], number: usize) -> Result<&Parameter, QueryError> {
    parameters.get(number - 1).ok_or_else(|| {
        let what = format!("${number} has no value: {} are given", parameters.len());
        QueryError::Parameter { number, what }
    })
}

/// A value of the type that is wanted, or of the type that it shows by itself.
fn scalar(
    number: usize,
    value: &Parameter,
    wanted: Option<&DataType>,
) -> Result<ScalarValue, QueryError> {
    let wrong = |data_type: &DataType| {
        let what = format!("the value of ${number} is not one of type {data_type}");
        QueryError::Parameter { number, what }
    };
    let text = match value {
        Value::Null => {
            return ScalarValue::try_from(wanted.unwrap_or(&DataType::Null))
                .map_err(QueryError::planning);
        }
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => s.clone(),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    let own = match value {
        Value::Bool(_) => DataType::Boolean,
        Value::Number(n) if n.is_i64() => DataType::Int64,
        Value::Number(_) => DataType::Float64,
        _ => DataType::Utf8View,
    };
    let data_type = match wanted {
        // A whole number that is compared with a fraction, or the other way, says more by its own type.
        Some(wanted) if !(wanted.is_integer() && own == DataType::Float64) => wanted,
        _ => &own,
    };
    let fits = match data_type {
        DataType::Boolean => value.is_boolean() || value.is_string(),
        d if d.is_numeric() => value.is_number() || value.is_string(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        _ => value.is_string(),
    };
    if !fits {
        return Err(wrong(data_type));
    }
    cast_text(text, data_type).map_err(|_| wrong(data_type))
}

/// Reads a text as a value of a type.
pub(crate) fn cast_text(
    text: String,
    data_type: &DataType,
) -> Result<ScalarValue, DataFusionError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let array: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let cast = cast_with_options(&array, data_type, &options)?;
    ScalarValue::try_from_array(&cast, 0)
}
