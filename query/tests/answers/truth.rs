//! A log as of a position answers as a log that ends there.

use crate::world::{World, event, rows};

/// What is done to a log, one op after the other; all but times is the same whenever it is done.
enum Deed {
    Append(String, Vec<(u128, String, String, Vec<String>)>),
    Delete(String),
}

/// Numbers that depend on nothing but the seed (xorshift).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Deeds, and how many records each leaves behind it.
fn deeds(dice: &mut Dice, count: usize) -> Vec<Deed> {
    let mut alive: Vec<String> = Vec::new();
    let mut id = 0;
    let mut deeds = Vec::new();
    while deeds.len() < count {
        if dice.below(8) == 0 && !alive.is_empty() {
            let gone = alive.swap_remove(dice.below(alive.len() as u64) as usize);
            deeds.push(Deed::Delete(gone));
            continue;
        }
        let stream = format!("s/{}", dice.below(12));
        let events = (0..=dice.below(4)).map(|_| {
            id += 1;
            let data = format!("{{\"n\":{},\"k\":\"{}\"}}", dice.below(50), dice.below(3));
            (id, format!("t{}", dice.below(4)), data, vec![format!("g{}", dice.below(3))])
        });
        deeds.push(Deed::Append(stream.clone(), events.collect()));
        if !alive.contains(&stream) {
            alive.push(stream);
        }
    }
    deeds
}

async fn done(world: &World, deed: &Deed) {
    match deed {
        Deed::Delete(stream) => world.delete(stream).await,
        Deed::Append(stream, events) => {
            let made = events.iter().map(|(id, kind, data, tags)| {
                let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
                event(*id, kind, Some(data), &tags)
            });
            world.append("tester", stream, made.collect()).await;
        }
    }
}

/// Questions whose answers do not depend on the time. `{e}` and `{s}` are the tables.
const QUESTIONS: [&str; 9] = [
    "SELECT position, stream, version, id, type, tags, data, actor FROM {e} ORDER BY position",
    "SELECT stream, version, first_version, deleted FROM {s} ORDER BY stream",
    "SELECT type, count(*), sum((data->>'n')::bigint) FROM {e} GROUP BY type ORDER BY type",
    "SELECT position FROM {e} WHERE stream = 's/3' AND type IN ('t1', 't2') ORDER BY position",
    "SELECT position FROM {e} WHERE array_has(tags, 'g1') AND stream LIKE 's/1%' ORDER BY 1",
    "SELECT max(position), min(version), count(DISTINCT stream) FROM {e}",
    "SELECT s.stream, count(*) FROM {s} AS s JOIN {e} AS e ON e.stream = s.stream \
     WHERE NOT s.deleted GROUP BY s.stream ORDER BY 1",
    "SELECT e.position, row_number() OVER (PARTITION BY e.stream ORDER BY e.position) \
     FROM {e} AS e ORDER BY e.position",
    "WITH c AS (SELECT data->>'k' AS k, position AS p FROM {e}) SELECT k, max(p) FROM c GROUP BY k ORDER BY k",
];

fn question(sql: &str, version: &str) -> String {
    sql.replace("{e}", &format!("events{version}")).replace("{s}", &format!("streams{version}"))
}

#[tokio::test]
async fn a_log_as_of_a_position_answers_as_one_that_ends_there() {
    for seed in [1, 2, 3] {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
        let deeds = deeds(&mut dice, 120);
        let (whole, growing) = (World::empty().await, World::empty().await);
        for deed in &deeds {
            done(&whole, deed).await;
        }
        for (n, deed) in deeds.iter().enumerate() {
            done(&growing, deed).await;
            if n % 10 != 0 && n + 1 != deeds.len() {
                continue;
            }
            let last = *growing.store.tip(&growing.tenant).borrow() - 1;
            for sql in QUESTIONS {
                let truth = rows(&growing, &question(sql, "")).await;
                let then = question(sql, &format!(" AS OF POSITION {last}"));
                assert_eq!(rows(&whole, &then).await, truth, "seed {seed}: {then}");
            }
        }
        // Nothing of what is derived decides an answer.
        let World { store, engine, tenant, folder } = growing;
        store.close().await;
        drop((store, engine, tenant));
        let before: Vec<_> = {
            let mut answers = Vec::new();
            for sql in QUESTIONS {
                answers.push(rows(&whole, &question(sql, "")).await);
            }
            answers
        };
        let again = World::reopened_without_index(folder);
        for (sql, before) in QUESTIONS.iter().zip(before) {
            assert_eq!(rows(&again, &question(sql, "")).await, before, "seed {seed}: {sql}");
        }
    }
}
