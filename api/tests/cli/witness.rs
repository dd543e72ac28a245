//! `kimberlite witness` as a process: what it answers, and what it remembers when it is killed.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Stdio},
};

use kimberlite_store::{
    proof::{
        Checkpoint, LogKey, Node, Note, NoteSignature, Submission, VerifierKey, consistency,
        leaf_hash, subtree_root,
    },
    words::{Hash, Hex},
};
use sha2::{Digest, Sha256};

use super::{command, stderr};

const ORIGIN: &str = "log.example/t1";
const NAME: &str = "w.example/w1";

/// A running witness; killed, not stopped.
struct Witness {
    child: Child,
    address: String,
    key: VerifierKey,
    _out: BufReader<ChildStdout>,
}

struct Answer {
    status: u16,
    kind: String,
    body: String,
}

fn arguments(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let key = log(1).verifier().to_string();
    ["witness", "--listen", "127.0.0.1:0", "--data", folder, "--log", &key].map(Into::into).to_vec()
}

impl Witness {
    fn start(folder: &Path) -> Self {
        let mut child = command()
            .args(arguments(folder))
            .args(["--name", NAME])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = || {
            let mut line = String::new();
            assert!(out.read_line(&mut line).unwrap() > 0, "it ended early");
            line
        };
        let first = line();
        assert_eq!(line(), "\n");
        let key = line().trim().parse().unwrap();
        let address = first.split("http://").nth(1).unwrap().split_whitespace().next().unwrap();
        Self { address: address.to_owned(), child, key, _out: out }
    }

    fn post(&self, body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head =
            "POST /add-checkpoint HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-length:";
        write!(stream, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let kind = head.lines().find_map(|l| l.strip_prefix("content-type: ")).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, kind: kind.to_owned(), body: body.to_owned() }
    }

    /// The checkpoint with the witness's cosignature, which holds.
    fn cosigned(&self, submission: &Submission) -> Note {
        let answer = self.post(&submission.to_string());
        assert_eq!((answer.status, answer.body.lines().count()), (200, 1), "{}", answer.body);
        let mut note = submission.note().clone();
        note.add(NoteSignature::parse(answer.body.trim_end()).unwrap());
        let signed = note.verify([&self.key]).unwrap();
        assert!(signed[0].time_s.unwrap() > 1_700_000_000, "it says when");
        note
    }

    fn refuses(&self, body: &str) -> (u16, String, String) {
        let Answer { status, kind, body } = self.post(body);
        (status, kind, body.trim_end().to_owned())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn log(seed: u8) -> LogKey {
    LogKey::new(ORIGIN, &[seed; 32]).unwrap()
}

/// A tree of which each leaf is its position.
fn hash(node: Node) -> Hash {
    if node.level == 0 {
        return leaf_hash(node.index.to_string().as_bytes());
    }
    let half = |side| hash(Node { level: node.level - 1, index: 2 * node.index + side }).0;
    Hash(Sha256::digest([&[1], half(0).as_slice(), &half(1)].concat()).into())
}

fn checkpoint(size: u64) -> Checkpoint {
    let root = subtree_root(0, size, &mut |node| Ok::<_, ()>(hash(node))).unwrap();
    Checkpoint { origin: ORIGIN.to_owned(), size, root }
}

fn submission(old: u64, size: u64, key: &LogKey) -> Submission {
    let proof = consistency(old.min(size), size, |node| Ok::<_, ()>(hash(node))).unwrap();
    Submission::new(old, proof, checkpoint(size).sign(key)).unwrap()
}

fn kept(folder: &Path) -> PathBuf {
    let hash: [u8; 32] = Sha256::digest(ORIGIN).into();
    folder.join(format!("{}.checkpoint", Hex(&hash)))
}

#[test]
fn a_witness_cosigns_what_follows_and_remembers_it_when_killed() {
    let folder = tempfile::tempdir().unwrap();
    let witness = Witness::start(folder.path());
    assert_eq!(witness.key.name(), NAME);
    witness.cosigned(&submission(0, 7, &log(1)));
    witness.cosigned(&submission(7, 7, &log(1)));
    let note = witness.cosigned(&submission(7, 20, &log(1)));
    let key = witness.key.clone();
    drop(witness);

    let witness = Witness::start(folder.path());
    assert_eq!(witness.key, key, "its key stays");
    let stale = (409, "text/x.tlog.size".to_owned(), "20".to_owned());
    assert_eq!(witness.refuses(&submission(7, 20, &log(1)).to_string()), stale);
    assert_eq!(witness.refuses(&submission(0, 7, &log(1)).to_string()), stale);
    witness.cosigned(&submission(20, 33, &log(1)));
    // What another reader makes of it, with a cosigner's key, is in the tests of the store.
    assert!(note.to_string().contains("\n— w.example/w1 "));
}

#[test]
fn refusals_have_the_standards_statuses() {
    let folder = tempfile::tempdir().unwrap();
    let witness = Witness::start(folder.path());
    let status = |body: &str| witness.post(body).status;
    assert_eq!(status("nothing"), 400);
    assert_eq!(status(&"x".repeat(2 << 20)), 413);
    let stranger = LogKey::new("unknown", &[1; 32]).unwrap();
    let unknown = Checkpoint { origin: "unknown".to_owned(), ..checkpoint(7) }.sign(&stranger);
    assert_eq!(status(&Submission::new(0, Vec::new(), unknown).unwrap().to_string()), 404);
    assert_eq!(status(&submission(0, 7, &log(2)).to_string()), 403);
    assert_eq!(status(&submission(8, 7, &log(1)).to_string()), 400);
    let stale = witness.post(&submission(3, 7, &log(1)).to_string());
    assert_eq!((stale.status, stale.body.as_str()), (409, "0\n"));

    witness.cosigned(&submission(0, 7, &log(1)));
    let forked = Checkpoint { root: Hash([9; 32]), ..checkpoint(7) }.sign(&log(1));
    let fork = witness.post(&Submission::new(7, Vec::new(), forked).unwrap().to_string());
    assert_eq!((fork.status, fork.kind.as_str()), (409, "text/x.tlog.size"));
    let unproved = Submission::new(7, Vec::new(), checkpoint(20).sign(&log(1))).unwrap();
    assert_eq!(status(&unproved.to_string()), 422);
    witness.cosigned(&submission(7, 20, &log(1)));
}

#[test]
fn of_two_histories_only_one_is_cosigned_however_they_race() {
    let folder = tempfile::tempdir().unwrap();
    let witness = Witness::start(folder.path());
    let other = |n: u8| {
        let checkpoint = Checkpoint { root: Hash([n; 32]), ..checkpoint(9) };
        Submission::new(0, Vec::new(), checkpoint.sign(&log(1))).unwrap().to_string()
    };
    let statuses = std::thread::scope(|scope| {
        let (witness, other) = (&witness, &other);
        let callers = (0..16).map(|n| scope.spawn(move || witness.post(&other(n)).status));
        let callers = callers.collect::<Vec<_>>();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|s| **s == 409).count(), 15, "{statuses:?}");
}

#[test]
fn what_cannot_be_kept_is_not_cosigned() {
    let folder = tempfile::tempdir().unwrap();
    let witness = Witness::start(folder.path());
    witness.cosigned(&submission(0, 7, &log(1)));
    // A folder stands where the next file would be written.
    let blocked = kept(folder.path()).with_extension("checkpoint.new");
    fs::create_dir(&blocked).unwrap();
    let next = submission(7, 20, &log(1));
    let answer = witness.post(&next.to_string());
    assert_eq!((answer.status, answer.body.as_str()), (500, "what was seen could not be kept\n"));
    fs::remove_dir(&blocked).unwrap();
    witness.cosigned(&next);
}

#[test]
fn a_witness_that_cannot_remember_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |more: &[&str]| {
        let output = command().args(arguments(folder.path())).args(more).output().unwrap();
        stderr(&output, 1).to_owned()
    };
    assert!(refused(&[]).contains("give it a name"));
    assert!(refused(&["--name", "two words"]).contains("a key's name has no spaces"));
    let witness = Witness::start(folder.path());
    witness.cosigned(&submission(0, 7, &log(1)));
    assert!(refused(&[]).contains("in use by another process"));
    drop(witness);
    assert!(refused(&["--name", "other"]).contains("this witness is w.example/w1"));

    // Every byte of what was seen counts.
    let (seen, key) = (kept(folder.path()), folder.path().join("key"));
    let whole = fs::read(&seen).unwrap();
    for at in [0, ORIGIN.len() + 1, whole.len() - 10] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&seen, &bytes).unwrap();
        assert!(refused(&[]).contains("is no checkpoint of log.example/t1"), "byte {at}");
    }
    fs::write(&seen, "").unwrap();
    assert!(refused(&[]).contains("is no checkpoint of log.example/t1"));
    fs::write(&seen, &whole).unwrap();

    let text = fs::read_to_string(&key).unwrap();
    fs::write(&key, text.replacen(NAME, "w.example/w2", 1)).unwrap();
    assert!(refused(&[]).contains("is damaged"));
    fs::remove_file(&key).unwrap();
    assert!(refused(&["--name", NAME]).contains("holds checkpoints but no key"));
    fs::write(&key, text).unwrap();
    Witness::start(folder.path()).cosigned(&submission(7, 8, &log(1)));
}
