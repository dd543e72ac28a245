//! Query strings, read strictly: every parameter is known, and given once unless it may be
//! repeated.

use std::borrow::Cow;

use kimberlite_store::words::{Timestamp, Version};
use percent_encoding::percent_decode_str;

use crate::{
    limits::FILTER_VALUES_MAX,
    problem::{Code, FieldError, Problem},
};

/// A request's query parameters, of which each is taken by name.
pub(crate) struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    pub(crate) fn parse(query: Option<&'a str>) -> Result<Self, Problem> {
        let parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
        let pairs = parts.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Self { pairs: pairs.collect::<Result<_, Problem>>()? })
    }

    /// All values of a repeatable parameter.
    pub(crate) fn many(&mut self, name: &str) -> Result<Vec<Cow<'a, str>>, Problem> {
        let values: Vec<_> =
            self.pairs.extract_if(.., |(n, _)| n == name).map(|(_, value)| value).collect();
        if values.len() > FILTER_VALUES_MAX {
            let detail = format!("is given more than {FILTER_VALUES_MAX} times");
            return Err(Problem::parameter(Code::LimitExceeded, name, detail));
        }
        Ok(values)
    }

    /// The value of a parameter that is given at most once.
    pub(crate) fn one(&mut self, name: &str) -> Result<Option<Cow<'a, str>>, Problem> {
        let mut values = self.pairs.extract_if(.., |(n, _)| n == name).map(|(_, value)| value);
        let first = values.next();
        if values.next().is_some() {
            return Err(invalid(name, "is given more than once"));
        }
        drop(values);
        Ok(first)
    }

    /// A parameter of a form that `parse` knows.
    pub(crate) fn parsed<T>(
        &mut self,
        name: &str,
        form: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        self.one(name)?.map(|text| parse(&text).ok_or_else(|| invalid(name, form))).transpose()
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        let parse = |text: &str| text.parse::<bool>().ok();
        Ok(self.parsed(name, "is neither true nor false", parse)?.unwrap_or(false))
    }

    pub(crate) fn time(&mut self, name: &str) -> Result<Option<Timestamp>, Problem> {
        self.parsed(name, "is no RFC 3339 time with an offset", Timestamp::parse)
    }

    pub(crate) fn version(&mut self, name: &str) -> Result<Option<Version>, Problem> {
        let parse = |text: &str| Version::new(whole_number(text)?);
        self.parsed(name, "is no whole number below 2^53", parse)
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        if self.pairs.is_empty() {
            return Ok(());
        }
        let errors = self
            .pairs
            .iter()
            .map(|(name, _)| FieldError::parameter(name.as_ref(), "is not known here"));
        Err(Problem::fields(Code::UnknownParameter, errors.collect()))
    }
}

/// Refuses any query parameter.
pub(crate) fn none(query: Option<&str>) -> Result<(), Problem> {
    Query::parse(query)?.finish()
}

/// A parameter whose value cannot be.
pub(crate) fn invalid(name: &str, detail: impl Into<String>) -> Problem {
    Problem::parameter(Code::InvalidParameter, name, detail)
}

/// Digits only: no sign, no spaces.
pub(crate) fn whole_number(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Percent-decodes; `+` is a space, as in forms.
fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    let decoded = if text.contains('+') {
        let spaced = text.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8().map(|t| Cow::Owned(t.into_owned()))
    } else {
        percent_decode_str(text).decode_utf8()
    };
    decoded.map_err(|_| {
        Problem::new(Code::MalformedRequest, "The query is not percent-encoded UTF-8.")
    })
}
