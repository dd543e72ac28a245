//! CSV rows as lines of the bulk format.

use std::{collections::HashSet, io::Read};

use csv::{ErrorKind, ReaderBuilder, StringRecord, StringRecordsIntoIter};
use kimberlite_store::words::{EventType, StreamName};
use serde::{Serialize, Serializer};

use super::{
    Line, Place, RowError, RowReason,
    ids::Ids,
    template::{Bound, Template},
    times::Times,
};

/// What a row means.
#[derive(Debug)]
pub(super) struct Table<'a> {
    /// The byte between cells.
    pub(super) delimiter: u8,
    /// The stream of a row.
    pub(super) stream: &'a Template,
    /// The event type of a row.
    pub(super) event_type: &'a Template,
    /// The column of `occurred_at` and how it is written.
    pub(super) at: Option<(&'a str, Times)>,
}

/// Why a file's header does not fit.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum HeaderError {
    /// The first line could not be read.
    #[error("the header cannot be read: {0}")]
    Read(#[from] csv::Error),
    /// There is nothing in the file.
    #[error("no header line")]
    Missing,
    /// An object cannot have two members of one name.
    #[error("two columns are called {0:?}")]
    Twice(String),
    /// An option names a column that is not there.
    #[error("no column {column:?}; there are {}", columns.join(", "))]
    Unknown {
        /// The name that was asked for.
        column: String,
        /// Those that there are.
        columns: Vec<String>,
    },
}

impl Table<'_> {
    /// The rows of a file, in order; nothing comes after an error.
    ///
    /// # Errors
    /// The header cannot be read, or does not have the columns that are asked for.
    pub(super) fn lines<R: Read>(self, input: R, ids: &Ids) -> Result<Rows<R>, HeaderError> {
        let mut reader = ReaderBuilder::new().delimiter(self.delimiter).from_reader(input);
        let header = reader.headers()?.clone();
        if header.is_empty() {
            return Err(HeaderError::Missing);
        }
        let mut names = HashSet::new();
        if let Some(name) = header.iter().find(|name| !names.insert(*name)) {
            return Err(HeaderError::Twice(name.to_owned()));
        }
        let column = |name: &str| {
            header.iter().position(|column| column == name).ok_or_else(|| HeaderError::Unknown {
                column: name.to_owned(),
                columns: header.iter().map(|column| format!("{column:?}")).collect(),
            })
        };
        let stream = self.stream.bind(column)?;
        let event_type = self.event_type.bind(column)?;
        let at = self.at.map(|(name, times)| Ok::<_, HeaderError>((column(name)?, times)));
        let at = at.transpose()?;
        let records = reader.into_records();
        Ok(Rows { records, header, stream, event_type, at, ids: *ids, row: 0 })
    }
}

/// The rows of a CSV file as lines of the bulk format.
pub(super) struct Rows<R> {
    records: StringRecordsIntoIter<R>,
    header: StringRecord,
    stream: Bound,
    event_type: Bound,
    at: Option<(usize, Times)>,
    ids: Ids,
    row: u64,
}

impl<R: Read> Iterator for Rows<R> {
    type Item = Result<Line, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.records.reader().position().line();
        let record = self.records.next()?;
        self.row += 1;
        let place = |position: Option<&csv::Position>| Place {
            row: self.row,
            line: position.map_or(line, csv::Position::line),
        };
        Some(match record {
            Ok(record) => self.line(place(record.position()), &record),
            Err(error) => Err(unreadable(place(error.position()), error)),
        })
    }
}

impl<R> Rows<R> {
    fn line(&self, place: Place, record: &StringRecord) -> Result<Line, RowError> {
        let error = |column: Option<usize>, reason| RowError {
            place,
            column: column.and_then(|index| self.header.get(index)).map(str::to_owned),
            reason,
        };
        let cell = |index: usize| record.get(index).unwrap_or_default();
        let stream = self.stream.fill(cell);
        if let Err(source) = StreamName::new(&stream) {
            let reason = RowReason::Stream { text: stream, source };
            return Err(error(self.stream.only_column(), reason));
        }
        let r#type = self.event_type.fill(cell);
        if let Err(source) = EventType::new(&r#type) {
            let reason = RowReason::Type { text: r#type, source };
            return Err(error(self.event_type.only_column(), reason));
        }
        let occurred_at = match &self.at {
            None => None,
            Some((index, times)) => {
                let text = cell(*index);
                Some(times.utc(text).map_err(|source| {
                    error(Some(*index), RowReason::Time { text: text.to_owned(), source })
                })?)
            }
        };
        let event = Event {
            id: self.ids.of_row(place.row).to_string(),
            stream: &stream,
            r#type,
            occurred_at,
            data: Data { header: &self.header, record },
        };
        let json = serde_json::to_vec(&event).expect("strings always serialise");
        Ok(Line { place, stream, json })
    }
}

fn unreadable(place: Place, error: csv::Error) -> RowError {
    let reason = match error.into_kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            RowReason::Cells { expected: expected_len, found: len }
        }
        ErrorKind::Utf8 { .. } => RowReason::Utf8,
        ErrorKind::Io(source) => RowReason::Io(source),
        kind => RowReason::Io(std::io::Error::other(format!("{kind:?}"))),
    };
    RowError { place, column: None, reason }
}

#[derive(Serialize)]
struct Event<'a> {
    id: String,
    stream: &'a str,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<String>,
    data: Data<'a>,
}

/// The row as an object of strings, in the order of the columns, without empty cells.
struct Data<'a> {
    header: &'a StringRecord,
    record: &'a StringRecord,
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let cells = self.header.iter().zip(self.record).filter(|(_, cell)| !cell.is_empty());
        serializer.collect_map(cells)
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    const FILE: &str = "Case;Activity;When;Note\n\
        A;Start;2014/10/22 11:15:41;\n\n\
        B;\"Two; \"\"words\"\"\";2014/10/22 11:16:00;\"two\nlines\"\n";

    fn lines(file: &[u8], stream: &str) -> Result<Vec<Result<String, String>>, String> {
        let (stream, event_type) = (stream.parse().unwrap(), "{Activity}".parse().unwrap());
        let times = Times::new(Some("%Y/%m/%d %H:%M:%S".into()), TimeZone::UTC);
        let at = Some(("When", times));
        let table = Table { delimiter: b';', stream: &stream, event_type: &event_type, at };
        let rows = table.lines(file, &Ids::of(file).unwrap()).map_err(|e| e.to_string())?;
        Ok(rows
            .map(|row| match row {
                Ok(line) => Ok(String::from_utf8(line.json).unwrap()),
                Err(error) => Err(error.to_string()),
            })
            .collect())
    }

    #[test]
    fn rows_become_events_with_their_cells_in_order() {
        let ids = Ids::of(FILE.as_bytes()).unwrap();
        assert_eq!(
            lines(FILE.as_bytes(), "case-{Case}").unwrap(),
            [
                Ok(format!(
                    r#"{{"id":"{}","stream":"case-A","type":"Start","occurred_at":"2014-10-22T11:15:41.000000Z","data":{{"Case":"A","Activity":"Start","When":"2014/10/22 11:15:41"}}}}"#,
                    ids.of_row(1)
                )),
                Ok(format!(
                    r#"{{"id":"{}","stream":"case-B","type":"Two; \"words\"","occurred_at":"2014-10-22T11:16:00.000000Z","data":{{"Case":"B","Activity":"Two; \"words\"","When":"2014/10/22 11:16:00","Note":"two\nlines"}}}}"#,
                    ids.of_row(2)
                )),
            ]
        );
    }

    #[test]
    fn bad_row_says_where_and_why() {
        let check = |row: &[u8], expected: &str| {
            let file =
                [b"Case;Activity;When\nA;Start;2014/10/22 11:15:41\n".as_slice(), row].concat();
            let lines = lines(&file, "case-{Case}").unwrap();
            assert!(lines[0].is_ok());
            assert_eq!(lines[1].as_ref().unwrap_err(), expected);
        };
        check(
            b"B x;Start;2014/10/22 11:15:41\n",
            "row 2 (line 3), column \"Case\": \"case-B x\" is no stream name: holds a character that is \
             not allowed here",
        );
        check(
            b"B;;2014/10/22 11:15:41\n",
            "row 2 (line 3), column \"Activity\": \"\" is no event type: must not be empty",
        );
        check(b"B;Start\n", "row 2 (line 3): 2 cells under 3 columns");
        check(b"\xff;Start;2014/10/22 11:15:41\n", "row 2 (line 3): not UTF-8");
        let lines = lines(b"Case;Activity;When\nA;Start;soon\n", "{Case}").unwrap();
        let error = lines[0].as_ref().unwrap_err();
        assert!(
            error.starts_with("row 1 (line 2), column \"When\": \"soon\" is no time: "),
            "{error}"
        );
    }

    #[test]
    fn header_has_the_columns_that_are_asked_for() {
        let check = |file: &str, expected: &str| {
            assert_eq!(lines(file.as_bytes(), "{Case}").unwrap_err(), expected);
        };
        check("Activity;When\n", "no column \"Case\"; there are \"Activity\", \"When\"");
        check("Case;Activity;When;Case\n", "two columns are called \"Case\"");
        check("", "no header line");
        assert_eq!(lines("\u{feff}Case;Activity;When\n".as_bytes(), "{Case}").unwrap(), []);
    }
}
