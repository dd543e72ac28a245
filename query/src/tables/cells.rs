//! Values between what the engine computes with and what is stored.
//!
//! A row is stored as a JSON array with a value for each column, written as answers are: whole numbers that every reader of
//! JSON can hold as numbers, larger ones and decimals as texts, bytes in base64. A JSON value is a text inside, so that it
//! stays as it came and `null` is told from nothing.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, BinaryViewBuilder, BooleanBuilder, Float32Builder,
            Float64Builder, Int16Builder, Int32Builder, Int64Builder, StringArray, StringViewArray,
            StringViewBuilder,
        },
        compute::{CastOptions, cast_with_options},
        datatypes::{DataType, Field, Schema, TimeUnit},
        record_batch::{RecordBatch, RecordBatchOptions},
    },
    error::DataFusionError,
};
use kimberlite_store::tables::{Column, ColumnType, Table};
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use crate::{error::QueryError, rows::Rows};

const EXACTLY: CastOptions<'static> = CastOptions {
    safe: false,
    format_options: datafusion::arrow::util::display::FormatOptions::new(),
};

/// What the engine computes with.
pub(super) fn data_type(column_type: ColumnType) -> DataType {
    match column_type {
        ColumnType::SmallInt => DataType::Int16,
        ColumnType::Integer => DataType::Int32,
        ColumnType::BigInt => DataType::Int64,
        ColumnType::Real => DataType::Float32,
        ColumnType::Double => DataType::Float64,
        ColumnType::Decimal(precision, scale) => {
            DataType::Decimal128(precision, scale.cast_signed())
        }
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Date => DataType::Date32,
        ColumnType::Time => DataType::Time64(TimeUnit::Microsecond),
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        ColumnType::TimestampTz => crate::events::time_type(),
        ColumnType::Bytes => DataType::BinaryView,
        ColumnType::Text | ColumnType::Uuid | ColumnType::Json => DataType::Utf8View,
    }
}

/// The values of some columns of stored rows.
pub(crate) fn values_of(
    table: &Table,
    columns: &[usize],
    rows: &[Bytes],
) -> Result<Vec<ArrayRef>, DataFusionError> {
    let parsed: Result<Vec<Vec<Value>>, _> =
        rows.iter().map(|row| serde_json::from_slice(row)).collect();
    let parsed = parsed.map_err(|e| DataFusionError::External(Box::new(e)))?;
    let column = |number: &usize| {
        let column_type = table.columns[*number].column_type;
        let cells = parsed.iter().map(|row| row.get(*number).unwrap_or(&Value::Null));
        array(column_type, cells)
    };
    columns.iter().map(column).collect()
}

fn array<'a>(
    column_type: ColumnType,
    cells: impl Iterator<Item = &'a Value>,
) -> Result<ArrayRef, DataFusionError> {
    let wrong = || {
        let what = format!("a stored value is not of type {column_type}");
        DataFusionError::Internal(what)
    };
    macro_rules! build {
        ($builder:expr, $read:expr) => {{
            let mut builder = $builder;
            for cell in cells {
                match text_of(cell) {
                    None => builder.append_null(),
                    Some(text) => builder.append_value($read(text).ok_or_else(wrong)?),
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    Ok(match column_type {
        ColumnType::SmallInt => build!(Int16Builder::new(), |t: Cow<'_, str>| t.parse().ok()),
        ColumnType::Integer => build!(Int32Builder::new(), |t: Cow<'_, str>| t.parse().ok()),
        ColumnType::BigInt => build!(Int64Builder::new(), |t: Cow<'_, str>| t.parse().ok()),
        // The names of infinities and of what is no number are read too.
        ColumnType::Real => build!(Float32Builder::new(), |t: Cow<'_, str>| t.parse().ok()),
        ColumnType::Double => build!(Float64Builder::new(), |t: Cow<'_, str>| t.parse().ok()),
        ColumnType::Boolean => build!(BooleanBuilder::new(), |t: Cow<'_, str>| t.parse().ok()),
        ColumnType::Text | ColumnType::Uuid | ColumnType::Json => {
            build!(StringViewBuilder::new(), Some)
        }
        ColumnType::Bytes => {
            build!(BinaryViewBuilder::new(), |t: Cow<'_, str>| STANDARD.decode(&*t).ok())
        }
        ColumnType::Decimal(..)
        | ColumnType::Date
        | ColumnType::Time
        | ColumnType::Timestamp
        | ColumnType::TimestampTz => {
            let texts: StringArray = cells.map(text_of).collect();
            cast_with_options(&texts, &data_type(column_type), &EXACTLY).map_err(|_| wrong())?
        }
    })
}

fn text_of(cell: &Value) -> Option<Cow<'_, str>> {
    match cell {
        Value::Null => None,
        Value::String(text) => Some(Cow::Borrowed(text)),
        other => Some(Cow::Owned(other.to_string())),
    }
}

/// Rows as they are stored.
pub(crate) fn stored_rows(batch: &RecordBatch) -> Result<Vec<Bytes>, DataFusionError> {
    // Without what fields are beyond their types: JSON is a text then.
    let plain = |f: &Arc<Field>| Field::new(f.name(), f.data_type().clone(), true);
    let schema = Schema::new(batch.schema().fields().iter().map(plain).collect::<Vec<_>>());
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().to_vec();
    let batch = RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)?;
    let rows = Rows::new(&batch)?;
    let row = |n| {
        let mut text = Vec::new();
        rows.array(n, &mut text);
        Bytes::from(text)
    };
    Ok((0..rows.count()).map(row).collect())
}

/// Values as a column takes them.
///
/// # Errors
/// They are of a type that has to be cast, or one of them is not of the column's type.
pub(crate) fn assign(
    column: &Column,
    field: &Field,
    values: &ArrayRef,
) -> Result<ArrayRef, QueryError> {
    let Column { name, column_type, .. } = column;
    let to = data_type(*column_type);
    let from = values.data_type();
    let textual = matches!(from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let temporal = |t: &DataType| matches!(t, DataType::Date32 | DataType::Timestamp(..));
    let fits = *from == DataType::Null
        || textual
        || *from == to
        || from.is_numeric() && to.is_numeric()
        || from.is_binary() && to == DataType::BinaryView
        || temporal(from) && temporal(&to)
        || matches!((from, &to), (DataType::Time32(_) | DataType::Time64(_), DataType::Time64(_)));
    if !fits {
        let is = crate::rows::columns(&Schema::new(vec![field.clone()])).remove(0).sql_type;
        let what = format!(
            "the column \"{name}\" is of type {column_type} and the value of type {is}: CAST it"
        );
        return Err(QueryError::Meaning(what));
    }
    let unreadable = || {
        QueryError::Value(format!(
            "a value cannot be one of the column \"{name}\", which is {column_type}"
        ))
    };
    let cast = cast_with_options(values, &to, &EXACTLY).map_err(|_| unreadable())?;
    if to.is_integer() && !from.is_integer() && !textual && *from != DataType::Null {
        // No fraction is cut off silently.
        let back = cast_with_options(&cast, from, &EXACTLY).map_err(|_| unreadable())?;
        if *back != **values {
            let what = format!(
                "a value for the column \"{name}\", which is {column_type}, is no whole number"
            );
            return Err(QueryError::Value(what));
        }
    }
    let cast = match column_type {
        ColumnType::Json => {
            let texts = cast.as_string_view();
            if texts.iter().flatten().any(|t| serde_json::from_str::<&RawValue>(t).is_err()) {
                return Err(unreadable());
            }
            cast
        }
        ColumnType::Uuid => {
            let texts = cast.as_string_view().iter();
            let uuids: Result<Vec<Option<String>>, _> = texts
                .map(|t| {
                    t.map(|t| Uuid::parse_str(t).map(|u| u.hyphenated().to_string())).transpose()
                })
                .collect();
            Arc::new(uuids.map_err(|_| unreadable())?.into_iter().collect::<StringViewArray>())
        }
        _ => cast,
    };
    keeps(column, &cast)?;
    Ok(cast)
}

/// What cannot be read back as it is must not be stored: times beyond what a calendar of ours has.
fn keeps(column: &Column, values: &ArrayRef) -> Result<(), QueryError> {
    if !values.data_type().is_temporal() {
        return Ok(());
    }
    let field = Field::new(&column.name, values.data_type().clone(), true);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::clone(values)]);
    let rows = batch.map_err(DataFusionError::from).and_then(|batch| stored_rows(&batch));
    let rows = rows.map_err(QueryError::running)?;
    let parsed: Vec<Vec<Value>> =
        rows.iter().map(|row| serde_json::from_slice(row).unwrap_or_default()).collect();
    let cells = parsed.iter().map(|row| row.first().unwrap_or(&Value::Null));
    match array(column.column_type, cells) {
        Ok(read) if *read == **values => Ok(()),
        _ => {
            let what = format!("a value for the column \"{}\" is out of range", column.name);
            Err(QueryError::Value(what))
        }
    }
}
