//! Changes of tables and rows.
//!
//! What a statement does was worked out from the state that its footprint shows. So all there is to decide is whether what it
//! rests on is still so: the schema, each row that it writes, and what it read. If not, it is worked out again.

use super::{
    Effect, PreparedChange, Refusal, RowDigest, TenantWindow, actor_effect, fresh, plain_effect,
};
use crate::record::RecordKind;

/// Decides a change: all of its records, or none.
pub(crate) fn decide_change<'a>(
    window: &TenantWindow,
    seen_at: u64,
    command: &'a PreparedChange,
) -> Result<Vec<Effect<'a>>, Refusal> {
    fresh(window, seen_at)?;
    let mut actor = actor_effect(window, &command.actor)?;
    // Changes of tables are rare, so none is told from another.
    unchanged(seen_at, window.last_schema())?;
    if command.rests.events {
        unchanged(seen_at, window.last_event())?;
    }
    for table in &command.rests.tables {
        unchanged(seen_at, window.last_of_table(*table))?;
    }
    let written = command.records.iter().filter_map(|r| r.row.map(|(_, row)| row));
    for row in command.rests.rows.iter().copied().chain(written) {
        let row: RowDigest = row;
        unchanged(seen_at, window.last_of_row(&row))?;
    }
    let effects = command.records.iter().map(|record| {
        let kind = match record.row {
            Some(_) => RecordKind::RowChanged,
            None => RecordKind::SchemaChanged,
        };
        Effect {
            version: record.version,
            row: record.row,
            ..plain_effect(kind, record.id, actor.take_first(), &record.payloads)
        }
    });
    Ok(effects.collect())
}

/// Nothing was written, in flight or committed, since the footprint was taken.
fn unchanged(seen_at: u64, last: Option<u64>) -> Result<(), Refusal> {
    match last {
        Some(last) if last >= seen_at => Err(Refusal::Stale { until: last + 1 }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::{NameUse, PreparedChanging, Rests, Seen},
        record::Payloads,
        words::{Actor, Hash, Reference},
    };

    const SEEN_AT: u64 = 5;
    const TABLE: Reference = Reference([1; 16]);
    const OTHER: Reference = Reference([2; 16]);

    fn change(rests: Rests, rows: &[u8]) -> PreparedChange {
        let name = Actor::new("a").unwrap();
        let record = |n: &u8| PreparedChanging {
            id: [*n; 16],
            version: 0,
            payloads: Payloads::default(),
            row: Some((TABLE, [*n; 16])),
        };
        let actor = NameUse { name, seen: Seen::Known(Reference([6; 16])) };
        PreparedChange { actor, rests, records: rows.iter().map(record).collect() }
    }

    /// A window in which one op wrote one record of each sort: a row of a table, or an event, or a table.
    fn window(
        committed: bool,
        write: impl Fn(&mut crate::kernel::window::OpWrites),
    ) -> TenantWindow {
        let mut window = TenantWindow::new(SEEN_AT, Hash::default());
        let writes = window.open(1);
        write(writes);
        writes.next += 1;
        if committed {
            window.commit(1);
        }
        window
    }

    #[test]
    fn a_change_rests_on_the_schema_the_rows_that_it_writes_and_what_it_read() {
        let rests = |events, tables: &[Reference], rows: &[u8]| Rests {
            events,
            tables: tables.to_vec(),
            rows: rows.iter().map(|n| [*n; 16]).collect(),
        };
        let row = |table, n: u8| {
            move |w: &mut crate::kernel::window::OpWrites| w.row(table, [n; 16], SEEN_AT)
        };
        for committed in [false, true] {
            let by_row = window(committed, row(TABLE, 7));
            let by_schema = window(committed, |w| w.schema = Some(SEEN_AT));
            let by_event = window(committed, |w| w.event = Some(SEEN_AT));
            let by_nothing = window(committed, |_| {});
            let cases = [
                (&by_row, rests(false, &[], &[]), vec![8], true, "another row of the table"),
                (&by_row, rests(false, &[], &[]), vec![7], false, "the row that it writes"),
                (&by_row, rests(false, &[], &[7]), vec![8], false, "a row that it read"),
                (&by_row, rests(false, &[TABLE], &[]), vec![8], false, "a table that it read"),
                (&by_row, rests(false, &[OTHER], &[]), vec![8], true, "another table"),
                (&by_row, rests(true, &[], &[]), vec![8], true, "no event"),
                (&by_schema, rests(false, &[], &[]), vec![8], false, "the schema"),
                (
                    &by_event,
                    rests(false, &[TABLE], &[]),
                    vec![8],
                    true,
                    "events, which it did not read",
                ),
                (&by_event, rests(true, &[], &[]), vec![8], false, "events"),
                (&by_nothing, rests(true, &[TABLE], &[7]), vec![7], true, "nothing"),
            ];
            for (window, rests, rows, goes, what) in cases {
                let change = change(rests, &rows);
                match decide_change(window, SEEN_AT, &change) {
                    Ok(effects) => {
                        assert!(goes, "{what}, committed: {committed}");
                        assert_eq!(effects.len(), rows.len());
                    }
                    Err(refusal) => {
                        assert_eq!(refusal, Refusal::Stale { until: SEEN_AT + 1 }, "{what}");
                        assert!(!goes, "{what}, committed: {committed}");
                    }
                }
                // Who has seen it rests on it.
                assert!(decide_change(window, SEEN_AT + 1, &change).is_ok(), "{what}");
            }
        }
    }

    #[test]
    fn what_was_abandoned_changes_nothing() {
        let mut window = window(false, |w| w.row(TABLE, [7; 16], SEEN_AT));
        window.abandon(0);
        assert!(decide_change(&window, SEEN_AT, &change(Rests::default(), &[7])).is_ok());
    }
}
