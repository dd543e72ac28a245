//! Texts with columns in braces: `case-{Case ID}`. A brace itself is written twice.

use std::str::FromStr;

/// A text with columns in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

/// Why a text is no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum TemplateError {
    /// A brace that does not enclose a column.
    #[error(
        "a brace without its partner: write {{Column}}, or {{{{ and }}}} for braces themselves"
    )]
    Brace,
    /// `{}`.
    #[error("empty braces: write the column's name between them")]
    Empty,
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            let behind = &rest[at + 1..];
            if let Some(after) = behind.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(TemplateError::Brace);
            }
            let (column, after) = behind.split_once('}').ok_or(TemplateError::Brace)?;
            match column {
                "" => return Err(TemplateError::Empty),
                _ if column.contains('{') => return Err(TemplateError::Brace),
                _ => {}
            }
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Column(column.to_owned()));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }
}

/// A template whose columns are known by their place in a row.
#[derive(Debug)]
pub(super) struct Bound(Vec<BoundPart>);

#[derive(Debug)]
enum BoundPart {
    Text(String),
    Column(usize),
}

impl Template {
    /// Looks the columns up; the error is the first one that is missing.
    ///
    /// # Errors
    /// What `column` answers for a name that it does not know.
    pub(super) fn bind<E>(
        &self,
        mut column: impl FnMut(&str) -> Result<usize, E>,
    ) -> Result<Bound, E> {
        let bind = |part: &Part| {
            Ok(match part {
                Part::Text(text) => BoundPart::Text(text.clone()),
                Part::Column(name) => BoundPart::Column(column(name)?),
            })
        };
        self.0.iter().map(bind).collect::<Result<_, E>>().map(Bound)
    }
}

impl Bound {
    /// The text for one row.
    pub(super) fn fill<'a>(&'a self, cell: impl Fn(usize) -> &'a str) -> String {
        let text = |part: &'a BoundPart| match part {
            BoundPart::Text(text) => text.as_str(),
            BoundPart::Column(index) => cell(*index),
        };
        self.0.iter().map(text).collect()
    }

    /// The column that a wrong text can be blamed on, if there is exactly one.
    pub(super) fn only_column(&self) -> Option<usize> {
        let mut columns = self.0.iter().filter_map(|part| match part {
            BoundPart::Text(_) => None,
            BoundPart::Column(index) => Some(*index),
        });
        columns.next().filter(|_| columns.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_fill_in_columns() {
        let check = |text: &str, expected: Result<&str, TemplateError>| {
            let filled = text.parse::<Template>().map(|template| {
                let bound = template.bind(|name| match name {
                    "Case ID" => Ok(0),
                    "case:x" => Ok(1),
                    other => Err(other.to_owned()),
                });
                bound.unwrap().fill(|index| ["A7", "b"][index])
            });
            assert_eq!(filled.as_deref(), expected.as_ref().map(|text| *text), "{text}");
        };
        check("case-{Case ID}", Ok("case-A7"));
        check("{Case ID}/{case:x}!", Ok("A7/b!"));
        check("plain", Ok("plain"));
        check("{{{Case ID}}}", Ok("{A7}"));
        check("", Ok(""));
        check("{", Err(TemplateError::Brace));
        check("a}", Err(TemplateError::Brace));
        check("{a{b}", Err(TemplateError::Brace));
        check("{}", Err(TemplateError::Empty));
    }

    #[test]
    fn unknown_column_is_named() {
        let template: Template = "{known}-{unknown}".parse().unwrap();
        let bound = template.bind(|name| (name == "known").then_some(0).ok_or(name.to_owned()));
        assert_eq!(bound.unwrap_err(), "unknown");
    }
}
