//! What clients ask, and whether what they were answered can be.
//!
//! Clients append to a few streams under all kinds of conditions, with ids of their own or under idempotency keys, so
//! that whatever is asked twice must be carried out once. Each event's data names its command. Answers tell
//! positions, so the order of what was done is the log's; it must agree with the order in which answers were given
//! and questions asked, and every refusal must have been true at some moment in between.

use std::collections::{BTreeMap, HashMap};

use kimberlite_consensus::{prng::Prng, sim::Workload};
use uuid::Uuid;

use crate::{
    append::{
        Actual, Append, DeleteStream, Expected, FailedCondition, Idempotency, NewEvent, Receipt,
        Rejection, StreamAppend,
    },
    kernel::Refusal,
    node::machine::Answer,
    words::{Actor, EventType, StreamName, Version},
};

const STREAMS: u64 = 6;

/// What a client asks.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Append(Append),
    Delete(DeleteStream),
}

/// An answer, and between when and when it was true.
#[derive(Debug)]
struct Answered {
    from_us: u64,
    to_us: u64,
    told: Told,
}

#[derive(Debug)]
enum Told {
    /// Streams, first and last version and position, and what their events must hold.
    Appended {
        receipts: Vec<Receipt>,
        events: Vec<String>,
        replayed: bool,
    },
    Deleted {
        position: u64,
        stream: String,
    },
    /// A stream was in this state.
    Refused {
        stream: String,
        actual: Actual,
    },
    /// A refusal that says nothing of a state that can be looked up.
    Other,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Load {
    random: Prng,
    answers: Vec<Answered>,
    /// The last version that an answer told of each stream.
    known: BTreeMap<u64, u64>,
    /// By command, the receipts that were given for it first.
    given: BTreeMap<u64, Vec<Receipt>>,
    /// The first command for which others were given later.
    differs: Option<String>,
}

fn stream_name(n: u64) -> StreamName {
    StreamName::new(&format!("s{n}")).expect("a name")
}

impl Workload for Load {
    type Command = Command;
    type Answer = Answer;

    fn new(random: Prng) -> Self {
        Self {
            random,
            answers: Vec::new(),
            known: BTreeMap::new(),
            given: BTreeMap::new(),
            differs: None,
        }
    }

    fn next(&mut self, number: u64) -> Command {
        let r = &mut self.random;
        let actor = Actor::new("client").expect("a name");
        let first = r.below(STREAMS);
        if r.per_mille(15) {
            let stream = stream_name(first);
            return Command::Delete(DeleteStream { actor, stream, expected: Expected::Any });
        }
        let keyed = r.per_mille(300);
        let mut streams = vec![first];
        if r.per_mille(150) {
            streams.push((first + 1 + r.below(STREAMS - 1)) % STREAMS);
        }
        let mut appends = Vec::new();
        for stream in streams {
            let expected = match r.below(8) {
                0 => Expected::None,
                1 => Expected::Exists,
                2..=4 => {
                    let version = self.known.get(&stream).copied().unwrap_or_default();
                    Expected::Version(Version::new(version).expect("small"))
                }
                _ => Expected::Any,
            };
            let events = (0..r.between(1, 3)).map(|i| NewEvent {
                id: (!keyed).then(|| {
                    Uuid::from_u128(
                        u128::from(number) << 8
                            | u128::from(stream) << 4
                            | u128::from(i)
                            | 1 << 100,
                    )
                }),
                event_type: EventType::new(["a", "b"][(number % 2) as usize]).expect("a name"),
                data: Some(format!("\"{number}.{stream}.{i}\"").into()),
                metadata: None,
                occurred_at: None,
                tags: Vec::new(),
            });
            let events = events.collect();
            // Most streams are made anew when they were deleted.
            let recreate = !number.is_multiple_of(5);
            appends.push(StreamAppend { stream: stream_name(stream), expected, recreate, events });
        }
        let idempotency = keyed.then(|| Idempotency {
            key: format!("k{number}"),
            route: "append",
            request_digest: [1; 32],
        });
        Command::Append(Append { actor, appends, conditions: Vec::new(), idempotency })
    }

    fn answered(
        &mut self,
        (number, command): (u64, &Command),
        asked_us: u64,
        now_us: u64,
        answer: Answer,
    ) -> bool {
        let mut again = false;
        let told = match (command, answer) {
            (Command::Append(append), Answer::Appended { receipts, replayed, .. }) => {
                for receipt in &receipts {
                    let stream = receipt.stream.as_str()[1..].parse().unwrap_or_default();
                    self.known.insert(stream, receipt.last_version.get());
                }
                self.same_again(number, &receipts);
                again = replayed;
                Told::Appended { receipts, events: datas(append), replayed }
            }
            (Command::Delete(delete), Answer::Written(position)) => {
                Told::Deleted { position, stream: delete.stream.to_string() }
            }
            (_, Answer::Refused(Refusal::Rejected(rejection))) => refused(rejection),
            (_, _) => Told::Other,
        };
        self.answers.push(Answered { from_us: asked_us, to_us: now_us, told });
        again
    }

    fn check(
        &self,
        content: &[String],
        followed: &[Vec<String>],
    ) -> Result<(), (&'static str, String)> {
        for (part, told) in followed.iter().enumerate() {
            same_events(content, part == 1, told)?;
        }
        if let Some(differs) = &self.differs {
            return Err(("S12", differs.clone()));
        }
        let log = Replayed::new(content)?;
        let mut placed = Vec::new();
        for answer in &self.answers {
            if let Some(position) = log.place(answer)? {
                placed.push((answer.from_us, answer.to_us, position));
            }
        }
        in_order(&mut placed.clone())?;
        log.refusals(&self.answers, &placed)
    }
}

impl Load {
    /// One command has one answer once it is carried out, times and hashes included.
    fn same_again(&mut self, number: u64, receipts: &[Receipt]) {
        let first = self.given.entry(number).or_insert_with(|| receipts.to_vec());
        if first != receipts && self.differs.is_none() {
            self.differs =
                Some(format!("command {number} was answered {first:?}, then {receipts:?}"));
        }
    }
}

/// A follower of everything, or of the events of one type only, was told just those that are there.
fn same_events(
    content: &[String],
    typed: bool,
    told: &[String],
) -> Result<(), (&'static str, String)> {
    let is_selected = |event: &&str| {
        let data = event.rsplit(' ').next().unwrap_or_default().trim_start_matches('"');
        let number: Option<u64> = data.split('.').next().and_then(|n| n.parse().ok());
        number.is_some_and(|n| !typed || n.is_multiple_of(2))
    };
    // Without their times; what is no event has no command's number.
    let events = content.iter().filter_map(|line| line.rsplit_once(' ')).map(|(event, _)| event);
    let mut events = events.filter(is_selected);
    for told in told {
        let there = events.next();
        if there != Some(told) {
            return Err(("S13", format!("followers were told {told}, and {there:?} is there")));
        }
    }
    match events.next() {
        Some(event) if !told.is_empty() => Err(("S13", format!("no follower was told {event}"))),
        _ => Ok(()),
    }
}

fn datas(append: &Append) -> Vec<String> {
    let events = append.appends.iter().flat_map(|a| &a.events);
    let data = |e: &NewEvent| String::from_utf8_lossy(e.data.as_deref().unwrap_or_default()).into();
    events.map(data).collect()
}

fn refused(rejection: Rejection) -> Told {
    match rejection {
        Rejection::ConditionsFailed(failed) => match failed.into_iter().next() {
            Some(FailedCondition::Stream { stream, actual, .. }) => {
                Told::Refused { stream: stream.to_string(), actual }
            }
            Some(FailedCondition::Match { .. }) | None => Told::Other,
        },
        Rejection::StreamUnknown(stream) => {
            Told::Refused { stream: stream.to_string(), actual: Actual::Absent }
        }
        _ => Told::Other,
    }
}

/// Answers that tell positions: none tells a lower one than another that was given before it was asked.
fn in_order(placed: &mut [(u64, u64, u64)]) -> Result<(), (&'static str, String)> {
    let mut given: Vec<(u64, u64)> = placed.iter().map(|(_, to, p)| (*to, *p)).collect();
    given.sort_unstable();
    placed.sort_unstable();
    let (mut next, mut highest) = (0, 0);
    for (from, _, position) in placed.iter() {
        while next < given.len() && given[next].0 < *from {
            highest = highest.max(given[next].1);
            next += 1;
        }
        if *position < highest {
            let what = format!("position {position} was asked for after {highest} was answered");
            return Err(("S13", what));
        }
    }
    Ok(())
}

/// The log as readers are told it.
struct Replayed<'a> {
    /// Stream, version (none for a deletion) and data by position.
    records: Vec<(&'a str, Option<u64>, &'a str)>,
    /// Of each stream, the positions of its records.
    streams: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Replayed<'a> {
    fn new(content: &'a [String]) -> Result<Self, (&'static str, String)> {
        let mut records = Vec::with_capacity(content.len());
        let mut streams: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut seen = HashMap::new();
        let mut versions: HashMap<&str, u64> = HashMap::new();
        for (position, line) in content.iter().enumerate() {
            let mut words = line.split(' ');
            let stream = words.next().unwrap_or_default();
            streams.entry(stream).or_default().push(position);
            let Some(version) = words.next().and_then(|w| w.parse::<u64>().ok()) else {
                records.push((stream, None, ""));
                continue;
            };
            let data = words.nth(1).unwrap_or_default();
            if let Some(before) = seen.insert(data, position) {
                return Err(("S12", format!("{data} at {before} and {position}")));
            }
            let expected = versions.insert(stream, version).map_or(0, |v| v + 1);
            if version != expected {
                let what = format!("{stream} has version {version} at {position}, not {expected}");
                return Err(("S13", what));
            }
            records.push((stream, Some(version), data));
        }
        Ok(Self { records, streams })
    }

    /// The last position that an answer tells of, once all of it is there; none where it tells of an older one.
    fn place(&self, answer: &Answered) -> Result<Option<u64>, (&'static str, String)> {
        match &answer.told {
            Told::Appended { receipts, events, replayed } => {
                let mut there = Vec::new();
                for receipt in receipts {
                    let (first, last) = (receipt.first_position.get(), receipt.last_position.get());
                    let records = self.records.get(first as usize..=last as usize);
                    let version = records.and_then(|r| r.first()).and_then(|r| r.1);
                    let whole =
                        records.is_some_and(|r| r.iter().all(|r| r.0 == receipt.stream.as_str()));
                    if !whole || version != Some(receipt.first_version.get()) {
                        return Err(("S3", format!("{receipt:?} is not in the log")));
                    }
                    there.extend(records.into_iter().flatten().map(|r| r.2));
                }
                if *events != there {
                    return Err(("S13", format!("{events:?} were answered with {there:?}")));
                }
                let last = receipts.iter().map(|r| r.last_position.get()).max();
                Ok(last.filter(|_| !replayed))
            }
            Told::Deleted { position, stream } => {
                let record = self.records.get(*position as usize);
                if record.is_none_or(|r| r.0 != stream || r.1.is_some()) {
                    return Err(("S3", format!("the deletion of {stream} is not in the log")));
                }
                Ok(Some(*position))
            }
            Told::Refused { .. } | Told::Other => Ok(None),
        }
    }

    /// Each refusal was true at some moment between question and answer.
    fn refusals(
        &self,
        answers: &[Answered],
        placed: &[(u64, u64, u64)],
    ) -> Result<(), (&'static str, String)> {
        let mut given: Vec<(u64, u64)> = placed.iter().map(|(_, to, p)| (*to, *p)).collect();
        given.sort_unstable();
        let mut asked: Vec<(u64, u64)> = placed.iter().map(|(from, _, p)| (*from, *p)).collect();
        asked.sort_unstable();
        for answer in answers {
            let Told::Refused { stream, actual } = &answer.told else { continue };
            // All that was answered before is there; what was asked later is not.
            let before = given.iter().take_while(|(to, _)| *to < answer.from_us);
            let lowest = before.map(|(_, p)| p + 1).max().unwrap_or(0);
            let later = asked.iter().rev().take_while(|(from, _)| *from > answer.to_us);
            let highest = later.map(|(_, p)| *p).min().unwrap_or(self.records.len() as u64);
            if !self.was(stream, *actual, lowest, highest) {
                let what =
                    format!("{stream} was {actual:?} for a refusal between {lowest} and {highest}");
                return Err(("S13", what));
            }
        }
        Ok(())
    }

    /// Whether a stream was in a state behind so many records.
    fn was(&self, stream: &str, actual: Actual, lowest: u64, highest: u64) -> bool {
        let none = Vec::new();
        let positions = self.streams.get(stream).unwrap_or(&none);
        let (mut from, mut state, mut version) = (0, Actual::Absent, 0);
        for end in positions.iter().map(|p| *p as u64).chain([u64::MAX]) {
            // In this state from `from` records on up to `end` records.
            if state == actual && from <= highest && end >= lowest {
                return true;
            }
            let Some((_, record, _)) = self.records.get(end as usize) else { break };
            let is = |n| Version::new(n).expect("small");
            state = match record {
                Some(n) => {
                    version = *n;
                    Actual::Version(is(*n))
                }
                None => Actual::Deleted(is(version)),
            };
            from = end + 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{Hash, Position, Timestamp};

    /// A receipt of a command that wrote one event.
    fn receipt(time_us: i64) -> Receipt {
        let (version, position) = (Version::new(0).unwrap(), Position::new(0).unwrap());
        Receipt {
            stream: stream_name(1),
            first_version: version,
            last_version: version,
            first_position: position,
            last_position: position,
            time: Timestamp::from_micros(time_us).unwrap(),
            hash: Hash([7; 32]),
        }
    }

    #[test]
    fn what_is_asked_again_is_answered_as_it_was() {
        let check = |times: [i64; 2]| {
            let mut load = Load::new(Prng::new(1));
            let appends = |n| matches!(n, Command::Append(_)).then_some(n);
            let command = (0..).find_map(|n| appends(load.next(n))).unwrap();
            for (replayed, time_us) in [false, true].into_iter().zip(times) {
                let receipts = vec![receipt(time_us)];
                let answer = Answer::Appended { receipts, replayed, count: 0 };
                assert_eq!(load.answered((1, &command), 0, 1, answer), replayed);
            }
            load.check(&[], &[]).unwrap_err().0
        };
        // That nothing of it is in the log is another matter.
        assert_eq!([check([5, 5]), check([5, 6])], ["S3", "S12"]);
    }
}
