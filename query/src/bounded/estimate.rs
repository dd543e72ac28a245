//! What a call of a function makes at most, in bytes.

#![allow(
    clippy::cast_precision_loss,
    reason = "bounds lie far below where a double passes over whole numbers"
)]

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray},
        compute::{cast, kernels::length::length},
        datatypes::{
            ArrowNativeType, DataType, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
        },
    },
    error::DataFusionError,
    logical_expr::ColumnarValue,
};

use crate::limits::{CALL_BYTES_MAX, CALL_STEPS_MAX};

type Result<T> = std::result::Result<T, DataFusionError>;

/// How what a function makes depends on what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Work {
    /// So many times what it is given.
    Linear(u16),
    /// A text, a number of times.
    Repeat,
    /// A text of a number of characters.
    Pad,
    /// A text in place of each part of another.
    Replace,
    /// Likewise, in place of what a pattern finds.
    ReplacePattern,
    /// A list of one value, a number of times.
    ListRepeat,
    /// A list of a number of values.
    ListResize,
    /// A value in place of some of a list.
    ListReplace,
    /// The values of a list with a text between them.
    ListJoin,
    /// Numbers or times from one to another.
    Series,
    /// Nothing much, in as many steps as one text has bytes times those of the other.
    Steps,
}

/// Functions that choose among what they are given or take something out of it. The engine has rules of its own for some.
const CHOOSE: [&str; 13] = [
    "coalesce",
    "nvl",
    "nvl2",
    "nullif",
    "greatest",
    "least",
    "get_field",
    "array_element",
    "arrow_cast",
    "arrow_try_cast",
    "cast_to_type",
    "try_cast_to_type",
    "union_extract",
];

impl Work {
    /// The work of a function that makes values of a type; `None` where it is not worth a look.
    pub(super) fn of(name: &str, makes: Option<&DataType>) -> Option<Self> {
        let named = match name {
            "repeat" => Self::Repeat,
            "lpad" | "rpad" => Self::Pad,
            "replace" => Self::Replace,
            "regexp_replace" => Self::ReplacePattern,
            "array_repeat" => Self::ListRepeat,
            "array_resize" => Self::ListResize,
            "array_replace" | "array_replace_n" | "array_replace_all" => Self::ListReplace,
            "array_to_string" => Self::ListJoin,
            "range" | "generate_series" => Self::Series,
            "levenshtein" => Self::Steps,
            // A directive of two characters makes a name of a day.
            "to_char" => Self::Linear(20),
            "string_to_array" => Self::Linear(8),
            "translate" => Self::Linear(4),
            "encode" | "decode" => Self::Linear(2),
            name if CHOOSE.contains(&name) || name.starts_with("json_") => return None,
            _ => match makes {
                Some(makes) if makes.is_primitive() || *makes == DataType::Boolean => return None,
                // Letters of the other case have up to three times the bytes.
                _ => {
                    Self::Linear(if matches!(name, "upper" | "lower" | "initcap") { 3 } else { 1 })
                }
            },
        };
        Some(named)
    }

    /// Whether a call is sure to make no more than one may.
    pub(super) fn fits(self, given: &Given<'_>) -> Result<bool> {
        Ok(self.most(given)? <= CALL_BYTES_MAX as f64)
    }

    /// Bytes that a call makes at most.
    fn most(self, given: &Given<'_>) -> Result<f64> {
        let all = given.all();
        Ok(match self {
            Self::Linear(times) => all * f64::from(times),
            Self::Repeat => given.sum([Part::Length(0), Part::Number(1)], |[text, n]| text * n)?,
            Self::Pad => {
                given.sum([Part::Length(0), Part::Number(1)], |[text, n]| text + 4.0 * n)?
            }
            Self::Replace => given
                .sum([Part::Length(0), Part::Length(1), Part::Length(2)], |[text, from, to]| {
                    text + (text / from.max(1.0) + 1.0) * to
                })?,
            // Each reference to what was found adds no more than the text itself, and takes two bytes.
            Self::ReplacePattern => given
                .sum([Part::Length(0), Part::Length(2)], |[text, to]| {
                    text + (text + 1.0) * to * 1.5
                })?,
            Self::ListRepeat => {
                let each = given.bytes(0) + 16.0;
                given.sum([Part::Number(1)], |[n]| n * each)?
            }
            Self::ListResize => {
                let each = given.bytes(2) + 16.0;
                all + given.sum([Part::Number(1)], |[n]| n * each)?
            }
            Self::ListReplace => {
                let each = given.bytes(2);
                all + given.sum([Part::Length(0)], |[n]| n * each)?
            }
            Self::ListJoin => {
                let between = given.sum(
                    [Part::Length(0), Part::Length(1), Part::Length(2)],
                    |[n, between, null]| n * (between + null),
                )?;
                all * 8.0 + between
            }
            Self::Series => series(given)?,
            Self::Steps => {
                let steps = given.sum([Part::Length(0), Part::Length(1)], |[a, b]| a * b)?;
                if steps > CALL_STEPS_MAX { f64::INFINITY } else { 0.0 }
            }
        })
    }
}

/// What a call is given.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) args: &'a [ColumnarValue],
    pub(super) rows: usize,
}

/// A number that an argument says for each row.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// Bytes of a text, values of a list.
    Length(usize),
    /// A whole number, from 0 on.
    Number(usize),
}

impl Given<'_> {
    /// Bytes of an argument in all rows.
    fn bytes(&self, at: usize) -> f64 {
        match self.args.get(at) {
            Some(ColumnarValue::Array(array)) => bytes_of(array) as f64,
            Some(ColumnarValue::Scalar(value)) => value.size() as f64,
            None => 0.0,
        }
    }

    /// Bytes of all arguments in all rows.
    fn all(&self) -> f64 {
        let bytes = self.args.iter().enumerate().map(|(at, value)| match value {
            ColumnarValue::Array(_) => self.bytes(at),
            ColumnarValue::Scalar(value) => match text_bytes(value) {
                Some(bytes) => bytes as f64 * self.rows as f64,
                None => value.size() as f64 * self.rows as f64,
            },
        });
        bytes.sum()
    }

    /// Adds up what is made of each row.
    fn sum<const N: usize>(&self, parts: [Part; N], made: impl Fn([f64; N]) -> f64) -> Result<f64> {
        let mut columns = Vec::with_capacity(N);
        for part in parts {
            columns.push(self.column(part)?);
        }
        let row = |row: usize| {
            std::array::from_fn(|i| match &columns[i][..] {
                [one] => *one,
                each => each[row],
            })
        };
        Ok((0..self.rows).map(|r| made(row(r))).sum())
    }

    fn column(&self, part: Part) -> Result<Vec<f64>> {
        let (Part::Length(at) | Part::Number(at)) = part;
        let array = match self.args.get(at) {
            None => return Ok(vec![0.0]),
            Some(ColumnarValue::Array(array)) => Arc::clone(array),
            Some(ColumnarValue::Scalar(value)) => value.to_array()?,
        };
        let numbers = match part {
            Part::Length(_) => lengths(&array)?,
            Part::Number(_) => cast(&array, &DataType::Int64)?,
        };
        let numbers = numbers.as_primitive::<Int64Type>();
        Ok(numbers.iter().map(|n| n.unwrap_or(0).max(0) as f64).collect())
    }
}

fn lengths(array: &ArrayRef) -> Result<ArrayRef> {
    let numbers = match array.data_type() {
        DataType::Null => cast(array, &DataType::Int64)?,
        _ => cast(&length(array)?, &DataType::Int64)?,
    };
    Ok(numbers)
}

fn text_bytes(value: &datafusion::scalar::ScalarValue) -> Option<usize> {
    value.try_as_str().map(|text| text.map_or(0, str::len))
}

/// Bytes that the values of an array take, each for itself: views on one text count once each.
pub(super) fn bytes_of(array: &ArrayRef) -> usize {
    match array.data_type() {
        DataType::Utf8View => array.as_string_view().lengths().map(|l| l as usize).sum(),
        DataType::BinaryView => array.as_binary_view().lengths().map(|l| l as usize).sum(),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            let (from, to) = (offsets[0].as_usize(), offsets[list.len()].as_usize());
            8 * list.len() + bytes_of(&list.values().slice(from, to - from))
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(bytes_of).sum(),
        _ => {
            let data = array.to_data();
            data.get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
        }
    }
}

/// How much a list of numbers or times takes.
fn series(given: &Given<'_>) -> Result<f64> {
    let number = |at: usize| -> Result<Option<Vec<f64>>> {
        let Some(value) = given.args.get(at) else { return Ok(None) };
        let array = match value {
            ColumnarValue::Array(array) => Arc::clone(array),
            ColumnarValue::Scalar(value) => value.to_array()?,
        };
        Ok(Some(match array.data_type() {
            DataType::Interval(_) => {
                let array = cast(&array, &DataType::Interval(IntervalUnit::MonthDayNano))?;
                let micros = |step: Option<datafusion::arrow::datatypes::IntervalMonthDayNano>| {
                    step.map_or(0.0, |step| {
                        let days = f64::from(step.months) * 28.0 + f64::from(step.days);
                        days * 86_400e6 + step.nanoseconds as f64 / 1e3
                    })
                };
                array.as_primitive::<IntervalMonthDayNanoType>().iter().map(micros).collect()
            }
            DataType::Null => vec![0.0; array.len()],
            other => {
                let array = if other.is_temporal() {
                    cast(&array, &DataType::Timestamp(TimeUnit::Microsecond, None))?
                } else {
                    array
                };
                let array = cast(&array, &DataType::Int64)?;
                let numbers = array.as_primitive::<Int64Type>().iter();
                numbers.map(|n| n.map_or(0.0, |n| n as f64)).collect()
            }
        }))
    };
    let (first, second, step) = (number(0)?, number(1)?, number(2)?);
    let (from, to) = match (first, second) {
        (Some(to), None) => (vec![0.0], to),
        (from, to) => (from.unwrap_or(vec![0.0]), to.unwrap_or(vec![0.0])),
    };
    let step = step.unwrap_or(vec![1.0]);
    let at = |values: &[f64], row: usize| if values.len() == 1 { values[0] } else { values[row] };
    let count = (0..given.rows).map(|row| {
        let (from, to, step) = (at(&from, row), at(&to, row), at(&step, row));
        // The function itself refuses a step of nothing.
        if step == 0.0 { 0.0 } else { ((to - from) / step).max(0.0) + 1.0 }
    });
    Ok(count.sum::<f64>() * 8.0)
}

#[cfg(test)]
mod tests {
    use datafusion::scalar::ScalarValue;

    use super::*;

    fn check(work: Work, args: &[ScalarValue], from: f64, to: f64) {
        let args: Vec<_> = args.iter().cloned().map(ColumnarValue::Scalar).collect();
        let most = work.most(&Given { args: &args, rows: 1 }).unwrap();
        assert!(most >= from && most <= to, "{work:?}: {most}");
    }

    #[test]
    fn what_is_made_is_known_before() {
        let text = |letter: &str, times| ScalarValue::from(letter.repeat(times));
        let (few, number) = (text("a", 3), ScalarValue::from(1_000_000_000_i64));
        check(Work::Repeat, &[few.clone(), number.clone()], 3e9, 3e9);
        check(Work::Pad, &[few.clone(), number.clone()], 1e9, 5e9);
        check(Work::Series, &[ScalarValue::from(1_i64), number.clone()], 8e9, 8e9);
        check(Work::ListRepeat, &[few, number], 3e9, 1e12);
        let (one, other) = (text("a", 1000), text("b", 500));
        let replaced = [one.clone(), ScalarValue::from("a"), other.clone()];
        check(Work::Replace, &replaced, 5e5, 6e5);
        check(Work::ReplacePattern, &replaced, 5e5, 1e6);
        check(Work::Steps, &[one.clone(), one], 0.0, 0.0);
        let long = text("a", 100_000);
        check(Work::Steps, &[long.clone(), long], f64::INFINITY, f64::INFINITY);
    }

    #[test]
    fn views_on_one_text_count_each() {
        let text = ScalarValue::Utf8View(Some("x".repeat(1000)));
        assert!(bytes_of(&text.to_array_of_size(100).unwrap()) >= 100_000);
    }

    #[test]
    fn every_function_that_makes_texts_is_looked_at() {
        for function in datafusion::execution::SessionStateDefaults::default_scalar_functions() {
            let passed = Work::of(function.name(), Some(&DataType::Utf8View)).is_none();
            let chosen = CHOOSE.contains(&function.name());
            assert_eq!(passed, chosen, "{}", function.name());
        }
    }
}
