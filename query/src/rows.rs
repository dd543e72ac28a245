//! Answers as text: types by their SQL names, values as JSON and CSV have them.

use std::{collections::HashMap, io::Write as _, sync::Arc};

use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Float32Array, Float64Array,
            Int64Array, StringViewArray, TimestampMicrosecondArray, UInt64Array, UnionArray,
        },
        compute::cast,
        datatypes::{
            DataType, Field, Float32Type, Float64Type, Int64Type, Schema, TimeUnit,
            TimestampMicrosecondType, UInt64Type, UnionMode,
        },
        record_batch::RecordBatch,
    },
    error::DataFusionError,
};
use kimberlite_store::words::Timestamp;

/// Under this key a field says that it is more than its Arrow type tells.
const KIND: &str = "kimberlite.type";

/// A field of JSON texts.
pub(crate) fn json(field: Field) -> Field {
    field.with_metadata(HashMap::from([(KIND.to_owned(), "json".to_owned())]))
}

/// A field of UUIDs: texts of 36 characters in lower case.
pub(crate) fn uuid(field: Field) -> Field {
    field.with_metadata(HashMap::from([(KIND.to_owned(), "uuid".to_owned())]))
}

fn kind(field: &Field) -> &str {
    field.metadata().get(KIND).map_or("", String::as_str)
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its SQL type, such as `BIGINT` or `DECIMAL(10,2)`.
    pub sql_type: String,
}

pub(crate) fn columns(schema: &Schema) -> Vec<Column> {
    let column =
        |field: &Arc<Field>| Column { name: field.name().clone(), sql_type: sql_type(field) };
    schema.fields().iter().map(column).collect()
}

fn sql_type(field: &Field) -> String {
    match (kind(field), field.data_type()) {
        ("json", _) => "JSON".to_owned(),
        ("uuid", _) => "UUID".to_owned(),
        (_, data_type) => type_name(data_type),
    }
}

fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "SMALLINT".to_owned(),
        DataType::Int32 | DataType::UInt16 => "INTEGER".to_owned(),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "BIGINT".to_owned(),
        DataType::Float16 | DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => format!("DECIMAL({p},{s})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "TEXT".to_owned(),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "BYTES".to_owned(),
        DataType::Date32 | DataType::Date64 => "DATE".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".to_owned(),
        DataType::Timestamp(_, None) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".to_owned(),
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::ListView(f)
        | DataType::LargeListView(f)
        | DataType::FixedSizeList(f, _) => format!("{}[]", sql_type(f)),
        DataType::Union(..) => "JSON".to_owned(),
        DataType::Struct(_) => "ROW".to_owned(),
        DataType::Map(..) => "MAP".to_owned(),
        DataType::Dictionary(_, values) => type_name(values),
        DataType::RunEndEncoded(_, values) => sql_type(values),
    }
}

/// Integers beyond these bounds are strings in JSON.
const EXACT: std::ops::RangeInclusive<i64> = -((1 << 53) - 1)..=(1 << 53) - 1;

/// A batch of an answer, ready to be written.
#[derive(Debug)]
pub(crate) struct Rows {
    names: Vec<String>,
    cells: Vec<Cells>,
    count: usize,
}

/// One column's values in the few forms that are written.
#[derive(Debug)]
enum Cells {
    Null,
    Bool(BooleanArray),
    Int(Int64Array),
    Unsigned(UInt64Array),
    Single(Float32Array),
    Double(Float64Array),
    /// Text for its own sake, also of numbers that JSON cannot hold.
    Text(StringViewArray),
    /// JSON texts.
    Json(StringViewArray),
    Bytes(BinaryViewArray),
    /// With the zone's letter or without.
    Time(TimestampMicrosecondArray, bool),
    List(ArrayRef, Box<Cells>),
    Struct(ArrayRef, Vec<(String, Cells)>),
    Union(UnionArray, Vec<(i8, Cells)>),
}

/// How a value was written.
enum Written {
    Null,
    /// A JSON value as it stands.
    Raw,
    /// Text that JSON puts in quotes.
    Text,
}

impl Rows {
    pub(crate) fn new(batch: &RecordBatch) -> Result<Self, DataFusionError> {
        let schema = batch.schema();
        let fields = schema.fields().iter();
        let cells = fields.clone().zip(batch.columns()).map(|(f, array)| Cells::new(f, array));
        Ok(Self {
            names: fields.map(|f| f.name().clone()).collect(),
            cells: cells.collect::<Result<_, _>>()?,
            count: batch.num_rows(),
        })
    }

    /// How many rows.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Appends a row as a JSON array.
    pub(crate) fn array(&self, row: usize, out: &mut Vec<u8>) {
        let open = |out: &mut Vec<u8>, first: bool| out.push(if first { b'[' } else { b',' });
        for (i, cells) in self.cells.iter().enumerate() {
            open(out, i == 0);
            cells.json(row, out);
        }
        if self.cells.is_empty() {
            out.push(b'[');
        }
        out.push(b']');
    }

    /// Appends a row as a JSON object on a line.
    pub(crate) fn line(&self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        let begin = out.len();
        for (i, (name, cells)) in self.names.iter().zip(&self.cells).enumerate() {
            if i > 0 {
                out.push(b',');
            }
            string(name, out);
            out.push(b':');
            cells.json(row, out);
        }
        // JSON as it was stored may have line breaks between its tokens.
        for byte in &mut out[begin..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        out.extend_from_slice(b"}\n");
    }

    /// Appends a row of CSV (RFC 4180). NULL is nothing, the empty text is `""`.
    pub(crate) fn csv(&self, row: usize, out: &mut Vec<u8>) {
        let mut text = Vec::new();
        for (i, cells) in self.cells.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            text.clear();
            if !matches!(cells.write(row, &mut text), Written::Null) {
                csv_field(&text, out);
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The first line of CSV.
pub(crate) fn csv_head(columns: &[Column], out: &mut Vec<u8>) {
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        csv_field(column.name.as_bytes(), out);
    }
    out.extend_from_slice(b"\r\n");
}

fn csv_field(text: &[u8], out: &mut Vec<u8>) {
    let quoted = text.is_empty() || text.iter().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r'));
    if !quoted {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for byte in text {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

fn string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, text).expect("writing to memory");
}

fn as_text(array: &ArrayRef) -> Result<StringViewArray, DataFusionError> {
    Ok(cast(array, &DataType::Utf8View)?.as_string_view().clone())
}

impl Cells {
    fn new(field: &Field, array: &ArrayRef) -> Result<Self, DataFusionError> {
        Ok(match array.data_type() {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Bool(array.as_boolean().clone()),
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32 => {
                Self::Int(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            DataType::UInt64 => Self::Unsigned(array.as_primitive::<UInt64Type>().clone()),
            DataType::Float16 | DataType::Float32 => {
                let array = cast(array, &DataType::Float32)?;
                Self::Single(array.as_primitive::<Float32Type>().clone())
            }
            DataType::Float64 => Self::Double(array.as_primitive::<Float64Type>().clone()),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                let text = as_text(array)?;
                if kind(field) == "json" { Self::Json(text) } else { Self::Text(text) }
            }
            DataType::FixedSizeBinary(_) => {
                let array = cast(&cast(array, &DataType::Binary)?, &DataType::BinaryView)?;
                Self::Bytes(array.as_binary_view().clone())
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                let array = cast(array, &DataType::BinaryView)?;
                Self::Bytes(array.as_binary_view().clone())
            }
            DataType::Timestamp(_, zone) => {
                let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
                let array = cast(array, &micros)?;
                let array = array.as_primitive::<TimestampMicrosecondType>().clone();
                Self::Time(array, zone.is_some())
            }
            DataType::List(inner)
            | DataType::LargeList(inner)
            | DataType::ListView(inner)
            | DataType::LargeListView(inner)
            | DataType::FixedSizeList(inner, _) => {
                let list = cast(array, &DataType::LargeList(Arc::clone(inner)))?;
                let values = Self::new(inner, list.as_list::<i64>().values())?;
                Self::List(list, Box::new(values))
            }
            DataType::Map(entries, _) => {
                let list = cast(array, &DataType::List(Arc::clone(entries)))?;
                let list = cast(&list, &DataType::LargeList(Arc::clone(entries)))?;
                let values = Self::new(entries, list.as_list::<i64>().values())?;
                Self::List(list, Box::new(values))
            }
            DataType::Struct(fields) => {
                let parts = fields.iter().zip(array.as_struct().columns());
                let parts: Result<_, DataFusionError> =
                    parts.map(|(f, a)| Ok((f.name().clone(), Self::new(f, a)?))).collect();
                Self::Struct(Arc::clone(array), parts?)
            }
            DataType::Union(fields, UnionMode::Sparse | UnionMode::Dense) => {
                let union = array.as_union();
                let parts: Result<_, DataFusionError> = fields
                    .iter()
                    .map(|(id, field)| {
                        let child = union.child(id);
                        let cells = match (field.name().as_str(), child.data_type()) {
                            ("array" | "object", DataType::Utf8) => Self::Json(as_text(child)?),
                            _ => Self::new(field, child)?,
                        };
                        Ok((id, cells))
                    })
                    .collect();
                Self::Union(union.clone(), parts?)
            }
            DataType::Dictionary(_, values) => Self::new(field, &cast(array, values)?)?,
            DataType::RunEndEncoded(_, values) => {
                Self::new(field, &cast(array, values.data_type())?)?
            }
            DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..)
            | DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_)
            | DataType::Interval(_)
            | DataType::Duration(_) => Self::Text(as_text(array)?),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(a) => a.is_null(row),
            Self::Int(a) => a.is_null(row),
            Self::Unsigned(a) => a.is_null(row),
            Self::Single(a) => a.is_null(row),
            Self::Double(a) => a.is_null(row),
            Self::Text(a) | Self::Json(a) => a.is_null(row),
            Self::List(a, _) | Self::Struct(a, _) => a.is_null(row),
            Self::Bytes(a) => a.is_null(row),
            Self::Time(a, _) => a.is_null(row),
            Self::Union(..) => false,
        }
    }

    /// Appends a value as plain text.
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Written {
        if self.is_null(row) {
            return Written::Null;
        }
        match self {
            Self::Null => Written::Null,
            Self::Bool(a) => {
                out.extend_from_slice(if a.value(row) { b"true" } else { b"false" });
                Written::Raw
            }
            Self::Int(a) => {
                shown(out, a.value(row));
                if EXACT.contains(&a.value(row)) { Written::Raw } else { Written::Text }
            }
            Self::Unsigned(a) => {
                shown(out, a.value(row));
                if a.value(row) < 1 << 53 { Written::Raw } else { Written::Text }
            }
            Self::Single(a) => float(f64::from(a.value(row)), a.value(row), out),
            Self::Double(a) => float(a.value(row), a.value(row), out),
            Self::Text(a) => {
                out.extend_from_slice(a.value(row).as_bytes());
                Written::Text
            }
            Self::Json(a) => {
                out.extend_from_slice(a.value(row).as_bytes());
                Written::Raw
            }
            Self::Bytes(a) => {
                base64(a.value(row), out);
                Written::Text
            }
            Self::Time(a, zone) => {
                time(a.value(row), *zone, out);
                Written::Text
            }
            Self::List(a, values) => {
                let offsets = a.as_list::<i64>().value_offsets();
                out.push(b'[');
                for at in offsets[row]..offsets[row + 1] {
                    if at > offsets[row] {
                        out.push(b',');
                    }
                    values.json(usize::try_from(at).expect("offsets count from 0"), out);
                }
                out.push(b']');
                Written::Raw
            }
            Self::Struct(_, parts) => {
                for (i, (name, cells)) in parts.iter().enumerate() {
                    out.push(if i == 0 { b'{' } else { b',' });
                    string(name, out);
                    out.push(b':');
                    cells.json(row, out);
                }
                if parts.is_empty() {
                    out.push(b'{');
                }
                out.push(b'}');
                Written::Raw
            }
            Self::Union(a, parts) => {
                let id = a.type_id(row);
                match parts.iter().find(|(known, _)| *known == id) {
                    Some((_, cells)) => cells.write(a.value_offset(row), out),
                    None => Written::Null,
                }
            }
        }
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) {
        let start = out.len();
        match self.write(row, out) {
            Written::Null => out.extend_from_slice(b"null"),
            Written::Raw => {}
            Written::Text => {
                let text = out.split_off(start);
                string(&String::from_utf8_lossy(&text), out);
            }
        }
    }
}

fn shown(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("writing to memory");
}

/// The shortest digits that mean this number; text where JSON has no number for it.
fn float(value: f64, digits: impl serde::Serialize, out: &mut Vec<u8>) -> Written {
    if value.is_finite() {
        serde_json::to_writer(&mut *out, &digits).expect("writing to memory");
        return Written::Raw;
    }
    let text: &[u8] = match value {
        v if v.is_nan() => b"NaN",
        v if v > 0.0 => b"Infinity",
        _ => b"-Infinity",
    };
    out.extend_from_slice(text);
    Written::Text
}

/// RFC 3339 with six decimals; without the letter where the time is of no zone.
fn time(us: i64, zone: bool, out: &mut Vec<u8>) {
    match Timestamp::from_micros(us) {
        Some(time) => {
            let mut text = time.to_string();
            if !zone {
                text.pop();
            }
            out.extend_from_slice(text.as_bytes());
        }
        // Beyond what a calendar of ours has.
        None => shown(out, format_args!("{us} us")),
    }
}

/// Base64 (RFC 4648, with padding).
fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut text = String::new();
    STANDARD.encode_string(bytes, &mut text);
    out.extend_from_slice(text.as_bytes());
}
