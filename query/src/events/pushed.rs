//! Conditions that the log's indexes answer.

use std::{fmt, ops::Range};

use datafusion::{
    logical_expr::{BinaryExpr, Expr, Operator, expr::InList},
    scalar::ScalarValue,
};
use kimberlite_store::{
    read::Filter,
    scan::{Columns, EventQuery},
    words::{EventType, StreamName, Tag, Timestamp},
};
use uuid::Uuid;

/// Conditions taken in, all of which must hold. What was taken in is answered exactly.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pushed {
    /// Something that cannot be was asked for.
    nothing: bool,
    positions: Bounds,
    times: Bounds,
    occurred: Bounds,
    streams: Option<Vec<String>>,
    types: Option<Vec<String>>,
    prefix: Option<String>,
    tags: Vec<String>,
    ids: Option<Vec<Uuid>>,
}

/// A range of numbers, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    from: i64,
    to: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { from: i64::MIN, to: i64::MAX }
    }
}

impl Bounds {
    /// Takes in `number operator bound`; whether it is one that bounds.
    fn take(&mut self, operator: Operator, bound: i64) -> bool {
        let (from, to) = match operator {
            Operator::Eq => (bound, bound),
            Operator::GtEq => (bound, i64::MAX),
            Operator::LtEq => (i64::MIN, bound),
            Operator::Gt => match bound.checked_add(1) {
                Some(from) => (from, i64::MAX),
                None => (i64::MAX, i64::MIN),
            },
            Operator::Lt => match bound.checked_sub(1) {
                Some(to) => (i64::MIN, to),
                None => (i64::MAX, i64::MIN),
            },
            _ => return false,
        };
        self.from = self.from.max(from);
        self.to = self.to.min(to);
        true
    }

    fn is_empty(self) -> bool {
        self.from > self.to
    }

    fn is_whole(self) -> bool {
        self == Self::default()
    }
}

impl Pushed {
    /// Takes in a condition; false where the indexes do not answer it exactly.
    pub(crate) fn take(&mut self, condition: &Expr) -> bool {
        match condition {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                let mut both = self.clone();
                let taken = both.take(left) && both.take(right);
                if taken {
                    *self = both;
                }
                taken
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                if let (Some(column), Some(value)) = (column(left), literal(right)) {
                    return self.compare(column, *op, value);
                }
                if let (Some(value), Some(column)) = (literal(left), column(right))
                    && let Some(op) = op.swap()
                {
                    return self.compare(column, op, value);
                }
                false
            }
            Expr::Between(between) if !between.negated => {
                let (Some(column), Some(low), Some(high)) =
                    (column(&between.expr), literal(&between.low), literal(&between.high))
                else {
                    return false;
                };
                let mut both = self.clone();
                let taken = both.compare(column, Operator::GtEq, low)
                    && both.compare(column, Operator::LtEq, high);
                if taken {
                    *self = both;
                }
                taken
            }
            Expr::InList(InList { expr, list, negated: false }) => {
                let Some(column) = column(expr) else { return false };
                let values: Option<Vec<String>> = list.iter().map(|e| text(literal(e)?)).collect();
                values.is_some_and(|values| self.one_of(column, values))
            }
            Expr::Like(like) if !like.negated && !like.case_insensitive => {
                let pattern = literal(&like.pattern).and_then(text);
                let prefix = pattern.as_deref().and_then(|p| prefix_of(p, like.escape_char));
                match (column(&like.expr), prefix) {
                    (Some("stream"), Some(prefix)) => self.prefix(prefix),
                    _ => false,
                }
            }
            Expr::ScalarFunction(call) => {
                let [subject, argument] = &call.args[..] else { return false };
                let (Some(column), Some(value)) =
                    (column(subject), literal(argument).and_then(text))
                else {
                    return false;
                };
                match (call.name(), column) {
                    ("array_has", "tags") => {
                        self.nothing |= Tag::new(&value).is_err();
                        self.tags.push(value);
                        true
                    }
                    ("starts_with", "stream") => self.prefix(value),
                    _ => false,
                }
            }
            _ => false,
        }
    }

    fn compare(&mut self, column: &str, operator: Operator, value: &ScalarValue) -> bool {
        match column {
            "position" => match value {
                ScalarValue::Int64(Some(n)) => self.positions.take(operator, *n),
                _ => false,
            },
            "time" => micros(value).is_some_and(|us| self.times.take(operator, us)),
            "occurred_at" => micros(value).is_some_and(|us| self.occurred.take(operator, us)),
            "stream" | "type" | "id" if operator == Operator::Eq => {
                text(value).is_some_and(|value| self.one_of(column, vec![value]))
            }
            _ => false,
        }
    }

    fn one_of(&mut self, column: &str, values: Vec<String>) -> bool {
        let known = match column {
            "id" => {
                // In any of their forms; what is none is no event's.
                let ids = values.iter().filter_map(|v| Uuid::try_parse(v).ok()).collect();
                meet(&mut self.ids, ids);
                return true;
            }
            "stream" => &mut self.streams,
            "type" => &mut self.types,
            _ => return false,
        };
        meet(known, values);
        true
    }

    fn prefix(&mut self, prefix: String) -> bool {
        match &mut self.prefix {
            Some(known) if known.starts_with(&prefix) => {}
            Some(known) if !prefix.starts_with(&*known) => self.nothing = true,
            known => *known = Some(prefix),
        }
        true
    }

    /// What all asked streams' names begin with, where that is known.
    pub(crate) fn stream_prefix(&self) -> Option<String> {
        match &self.streams.as_deref() {
            Some([one]) => Some(one.clone()),
            _ => self.prefix.clone(),
        }
    }

    /// The question to the store; `None` where there is no answer.
    pub(crate) fn query(&self) -> Option<EventQuery> {
        let bounds = [self.positions, self.times, self.occurred];
        if self.nothing || bounds.into_iter().any(Bounds::is_empty) || self.positions.to < 0 {
            return None;
        }
        let time = |us: i64| Timestamp::from_micros(us);
        let mut filter = Filter { stream_prefix: self.prefix.clone(), ..Filter::default() };
        filter.tags = self.tags.iter().filter_map(|t| Tag::new(t).ok()).collect();
        if let Some(types) = &self.types {
            filter.types = types.iter().filter_map(|t| EventType::new(t).ok()).collect();
            if filter.types.is_empty() {
                return None;
            }
        }
        let streams = self
            .streams
            .as_ref()
            .map(|names| names.iter().filter_map(|n| StreamName::new(n).ok()).collect::<Vec<_>>());
        if streams.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        filter.from_time = time(self.times.from);
        if !self.occurred.is_whole() {
            // Also where one end is open: who has no time of its own does not match.
            filter.occurred_from = time(self.occurred.from).or_else(|| time(EARLIEST_US));
            filter.occurred_to = self.occurred.to.checked_add(1).and_then(time);
        }
        let from = u64::try_from(self.positions.from).unwrap_or(0);
        let to = u64::try_from(self.positions.to).unwrap_or(0).saturating_add(1);
        let positions: Option<Range<u64>> = (!self.positions.is_whole()).then_some(from..to);
        Some(EventQuery {
            filter,
            streams,
            positions,
            ids: self.ids.as_ref().map(|ids| ids.iter().map(|id| *id.as_bytes()).collect()),
            before: self.times.to.checked_add(1).and_then(time),
            columns: Columns::default(),
        })
    }
}

/// The first microsecond of the year 0000.
const EARLIEST_US: i64 = -62_167_219_200_000_000;

impl fmt::Display for Pushed {
    /// As `EXPLAIN` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (name, bounds) in
            [("position", self.positions), ("time", self.times), ("occurred_at", self.occurred)]
        {
            if bounds.from > i64::MIN {
                parts.push(format!("{name} from {}", shown(name, bounds.from)));
            }
            if bounds.to < i64::MAX {
                parts.push(format!("{name} to {}", shown(name, bounds.to)));
            }
        }
        for (name, values) in [("stream", &self.streams), ("type", &self.types)] {
            if let Some(values) = values {
                parts.push(format!("{name} in {values:?}"));
            }
        }
        parts.extend(self.ids.iter().map(|ids| format!("id in {ids:?}")));
        parts.extend(self.prefix.iter().map(|p| format!("stream prefix {p:?}")));
        parts.extend(self.tags.iter().map(|t| format!("tag {t:?}")));
        if self.nothing {
            parts.push("nothing".to_owned());
        }
        if parts.is_empty() { f.write_str("all") } else { f.write_str(&parts.join(", ")) }
    }
}

fn shown(name: &str, bound: i64) -> String {
    match Timestamp::from_micros(bound) {
        Some(time) if name != "position" => time.to_string(),
        _ => bound.to_string(),
    }
}

/// Of two lists of what may be, what is in both.
fn meet<T: PartialEq>(known: &mut Option<Vec<T>>, values: Vec<T>) {
    match known {
        Some(known) => known.retain(|v| values.contains(v)),
        None => *known = Some(values),
    }
}

fn column(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(&column.name),
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

fn text(value: &ScalarValue) -> Option<String> {
    value.try_as_str().flatten().map(str::to_owned)
}

fn micros(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::TimestampMicrosecond(Some(us), Some(_)) => Some(*us),
        _ => None,
    }
}

/// What a pattern starts with, where that is all it says.
fn prefix_of(pattern: &str, escape: Option<char>) -> Option<String> {
    let escape = escape.unwrap_or('\\');
    let mut prefix = String::new();
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        match c {
            '%' => return characters.all(|c| c == '%').then_some(prefix),
            '_' => return None,
            c if c == escape => prefix.push(characters.next()?),
            c => prefix.push(c),
        }
    }
    // Without a wild card it is equality.
    None
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;

    #[test]
    fn bounds_meet() {
        let mut pushed = Pushed::default();
        assert!(pushed.take(&col("position").gt(lit(5_i64))));
        assert!(pushed.take(&col("position").between(lit(0_i64), lit(9_i64))));
        assert!(pushed.take(&lit(8_i64).gt_eq(col("position"))));
        assert_eq!(pushed.query().unwrap().positions, Some(6..9));
        assert!(pushed.take(&col("position").eq(lit(3_i64))));
        assert!(pushed.query().is_none());
        for wide in [i64::MIN, i64::MAX] {
            let mut edge = Pushed::default();
            assert!(edge.take(&col("position").gt(lit(wide))));
            assert_eq!(edge.query().is_none(), wide == i64::MAX);
        }
    }

    #[test]
    fn what_is_not_answered_exactly_is_not_taken() {
        for expr in [
            col("position").gt(lit(1.5)),
            col("position").not_eq(lit(1_i64)),
            col("version").eq(lit(1_i64)),
            col("stream").gt(lit("a")),
            col("stream").like(lit("a_b%")),
            col("stream").like(lit("%a")),
            col("stream").like(lit("abc")),
            col("type").like(lit("a%")),
            col("stream").eq(lit("a")).or(col("type").eq(lit("b"))),
            col("stream").eq(lit(ScalarValue::Utf8(None))),
            col("stream").in_list(vec![lit("a")], true),
            col("stream").eq(lit("a")).and(col("data").eq(lit("b"))),
        ] {
            let mut pushed = Pushed::default();
            assert!(!pushed.take(&expr), "{expr}");
            assert_eq!(pushed.to_string(), "all", "{expr}");
        }
    }

    #[test]
    fn sets_and_prefixes_meet() {
        let mut pushed = Pushed::default();
        assert!(pushed.take(&col("type").in_list(vec![lit("a"), lit("b")], false)));
        assert!(pushed.take(&col("type").eq(lit("b"))));
        assert!(pushed.take(&col("stream").like(lit("or\\_d%"))));
        assert!(pushed.take(&col("stream").like(lit("or%"))));
        let query = pushed.query().unwrap();
        assert_eq!(query.filter.types, [EventType::new("b").unwrap()]);
        assert_eq!(query.filter.stream_prefix.as_deref(), Some("or_d"));
        assert!(pushed.take(&col("stream").like(lit("x%"))));
        assert!(pushed.query().is_none());
    }
}
