//! Backups that this process began: what runs, and what came of the last ones. In memory alone: what lasts is the
//! manifest in each backup's folder.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kimberlite_store::{
    backup::{BackedUp, Backup, BackupError, Progress, ProgressFigures},
    words::Timestamp,
};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    app::TraceId,
    limits::{BACKUPS_KEPT, BACKUPS_RUNNING_MAX},
    problem::{Code, Problem},
};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Backups {
    /// The newest last.
    entries: Mutex<VecDeque<Arc<Entry>>>,
    figures: Figures,
}

/// For metrics, since the start.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// When the last one that was done was begun, in seconds since 1970; 0 before.
    pub(crate) last_time_s: AtomicU64,
    /// Bytes that it holds.
    pub(crate) last_bytes: AtomicU64,
    pub(crate) failures: AtomicU64,
}

/// One backup.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: Uuid,
    pub(crate) folder: PathBuf,
    pub(crate) created_at: Timestamp,
    progress: Arc<Progress>,
    /// What came of it, and when.
    ended: Mutex<Option<(Timestamp, Ended)>>,
}

/// What came of a backup.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    Done,
    /// With its problem, as JSON.
    Failed(Arc<RawValue>),
    Cancelled,
}

impl Entry {
    pub(crate) fn figures(&self) -> ProgressFigures {
        self.progress.figures()
    }

    /// What came of it and when; `None` while it runs.
    pub(crate) fn ended(&self) -> Option<(Timestamp, Ended)> {
        locked(&self.ended).clone()
    }

    /// Asks for it to be broken off; nothing happens where it is over.
    pub(crate) fn cancel(&self) {
        self.progress.cancel();
    }
}

/// Whoever panicked left these as they were: each change is one assignment.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backups {
    pub(crate) fn figures(&self) -> &Figures {
        &self.figures
    }

    /// The newest first.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        locked(&self.entries).iter().rev().cloned().collect()
    }

    pub(crate) fn find(&self, id: Uuid) -> Option<Arc<Entry>> {
        locked(&self.entries).iter().find(|entry| entry.id == id).cloned()
    }

    /// Breaks off whatever runs.
    pub(crate) fn cancel_all(&self) {
        locked(&self.entries).iter().for_each(|entry| entry.cancel());
    }

    /// Runs a backup on a thread of its own.
    ///
    /// # Errors
    /// `overloaded` while too many run.
    pub(crate) fn run(
        self: &Arc<Self>,
        backup: Backup,
        folder: &Path,
        begun: Timestamp,
        trace: TraceId,
    ) -> Result<Arc<Entry>, Problem> {
        let entry = Arc::new(Entry {
            id: Uuid::now_v7(),
            folder: folder.to_owned(),
            created_at: begun,
            progress: backup.progress(),
            ended: Mutex::new(None),
        });
        self.add(&entry)?;
        let (this, of) = (Arc::clone(self), Arc::clone(&entry));
        let run = move || {
            let run = std::panic::AssertUnwindSafe(|| backup.run());
            let result = std::panic::catch_unwind(run);
            this.end(&of, result.map_err(|_| Problem::internal("a backup panicked")), trace);
        };
        let started = std::thread::Builder::new().name("backup".into()).spawn(run);
        if let Err(error) = started {
            locked(&self.entries).retain(|e| e.id != entry.id);
            return Err(Problem::internal(format!("starting a backup: {error}")));
        }
        Ok(entry)
    }

    /// Takes in an entry; the oldest that are over go.
    fn add(&self, entry: &Arc<Entry>) -> Result<(), Problem> {
        let mut entries = locked(&self.entries);
        let running = entries.iter().filter(|e| e.ended().is_none()).count();
        if running >= BACKUPS_RUNNING_MAX {
            let detail = format!("{running} backups run; wait until one of them is over.");
            return Err(Problem::new(Code::Overloaded, detail));
        }
        while entries.len() >= BACKUPS_KEPT
            && let Some(oldest) = entries.iter().position(|e| e.ended().is_some())
        {
            drop(entries.remove(oldest));
        }
        entries.push_back(Arc::clone(entry));
        Ok(())
    }

    fn end(
        &self,
        entry: &Entry,
        result: Result<Result<BackedUp, BackupError>, Problem>,
        trace: TraceId,
    ) {
        let id = entry.id.to_string();
        let ended = match result {
            Ok(Ok(BackedUp { op, figures })) => {
                let begun_s = entry.created_at.micros() / 1_000_000;
                let begun_s = u64::try_from(begun_s).unwrap_or_default();
                self.figures.last_time_s.store(begun_s, Ordering::Relaxed);
                self.figures.last_bytes.store(figures.bytes, Ordering::Relaxed);
                tracing::info!(id, op, copied_bytes = figures.bytes_copied, "a backup is done");
                Ended::Done
            }
            Ok(Err(BackupError::Cancelled)) => Ended::Cancelled,
            Ok(Err(error)) => {
                let problem = Problem::from(error);
                let error = problem.detail().to_owned();
                tracing::error!(id, error, "a backup failed");
                self.failed(&problem, trace)
            }
            Err(problem) => {
                tracing::error!(id, "a backup panicked");
                self.failed(&problem, trace)
            }
        };
        *locked(&entry.ended) = Some((Timestamp::now(), ended));
    }

    fn failed(&self, problem: &Problem, trace: TraceId) -> Ended {
        self.figures.failures.fetch_add(1, Ordering::Relaxed);
        let json = String::from_utf8(problem.json(trace)).expect("JSON is UTF-8");
        Ended::Failed(RawValue::from_string(json).expect("a problem is JSON").into())
    }
}
