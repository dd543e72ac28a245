//! Runs requests, each on threads that give way to everything else, within its bounds.

mod changes;
mod run;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use changes::Commit;
use datafusion::execution::SessionState;
use kimberlite_store::{Store, Tenant, scan::Moment, words::Actor};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    error::QueryError,
    limits::{BATCHES_AHEAD, NICE},
    rows::Column,
    session,
    values::Parameter,
};

/// Bounds, and what they are called.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes that one query may hold.
    pub memory_bytes: usize,
    /// Queries that run at once.
    pub running_max: usize,
    /// Queries that wait for their turn.
    pub waiting_max: usize,
    /// The longest time that a query may take.
    pub timeout_max: Duration,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// Statements, with `;` between them.
    pub sql: String,
    /// Values for `$1` and so on.
    pub parameters: Vec<Parameter>,
    /// Who asks.
    pub actor: Actor,
    /// What tables without a version of their own are of; a request that changes something is of now.
    pub moment: Moment,
    /// What `now()` is, in microseconds since 1970; `None`: when the request came.
    pub now_us: Option<i64>,
    /// How long it may take, the sending of a stream included.
    pub timeout: Duration,
}

/// How a stream of rows is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An object a line.
    Ndjson,
    /// RFC 4180 with a head.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
}

/// Some rows of one statement's answer.
#[derive(Clone, Debug)]
pub struct Page {
    /// The statement.
    pub sql: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows: JSON arrays with `,` between them.
    pub rows: Bytes,
    /// How many rows; of a statement without columns, how many it changed.
    pub count: usize,
    /// There are more rows behind these.
    pub more: bool,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Each statement's, in order.
    pub pages: Vec<Page>,
    /// How many records the log has that this is true of.
    pub records: u64,
    /// What `now()` was, in microseconds since 1970.
    pub now_us: i64,
}

/// An answer on its way.
#[derive(Debug)]
pub struct RowStream {
    /// How many records the log has that this is true of.
    pub records: u64,
    parts: mpsc::Receiver<Result<Bytes, QueryError>>,
    deadline: Instant,
    timeout: Duration,
    _running: Running,
}

/// Runs queries. Clones share it.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    settings: Settings,
    base: SessionState,
    turns: Arc<Semaphore>,
    /// Those who run or wait.
    seats: Arc<Semaphore>,
    /// `None` once the engine is being dropped.
    runtime: Option<Runtime>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A query that ends when nobody waits for it any more.
#[derive(Debug)]
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Engine {
    /// Starts the threads.
    ///
    /// # Errors
    /// Where the operating system has no threads to give.
    pub fn start(store: Store, settings: Settings) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(settings.running_max.clamp(1, 4))
            .thread_name("query")
            // What is nested is walked by functions that call themselves.
            .thread_stack_size(16 << 20)
            .on_thread_start(give_way)
            .enable_time()
            .build()?;
        let base = session::base().map_err(io::Error::other)?;
        let turns = Arc::new(Semaphore::new(settings.running_max));
        let seats = Arc::new(Semaphore::new(settings.running_max + settings.waiting_max));
        let inner = Inner { store, settings, base, turns, seats, runtime: Some(runtime) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How many queries run now.
    pub fn running(&self) -> usize {
        self.inner.settings.running_max - self.inner.turns.available_permits()
    }

    /// How many wait for their turn.
    pub fn waiting(&self) -> usize {
        let settings = &self.inner.settings;
        let seated =
            settings.running_max + settings.waiting_max - self.inner.seats.available_permits();
        seated.saturating_sub(self.running())
    }

    /// Answers a request: of each statement the rows behind the first `skip`, at most `rows` of them and none behind `bytes`
    /// of them.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub async fn answer(
        &self,
        tenant: &Tenant,
        request: Request,
        page: (u64, usize, usize),
    ) -> Result<Answer, QueryError> {
        let timeout = self.timeout(&request)?;
        let deadline = Instant::now() + timeout;
        let (sender, receiver) = oneshot::channel();
        let (engine, tenant) = (self.clone(), tenant.clone());
        let seat = self.seat()?;
        let commit = Arc::new(Commit::default());
        let working = Arc::clone(&commit);
        let running = self.spawn(async move {
            let answered = async {
                let _turn = engine.turn(seat).await?;
                run::answer(&engine.inner, &tenant, &request, page, deadline, &working).await
            };
            let _caller_left = sender.send(answered.await).is_err();
        });
        let _running = Running(running);
        let mut receiver = receiver;
        let answer = match timeout_at(deadline, &mut receiver).await {
            Ok(answer) => answer,
            Err(_) if commit.give_up() => return Err(late(timeout)),
            // It is being written: what becomes of that is known soon.
            Err(_) => receiver.await,
        };
        answer.unwrap_or_else(|_| Err(stopped()))
    }

    /// Answers a request of one statement with all its rows.
    ///
    /// # Errors
    /// See [`QueryError`]; those that come later are part of the stream.
    pub async fn rows(
        &self,
        tenant: &Tenant,
        request: Request,
        form: Form,
    ) -> Result<RowStream, QueryError> {
        let timeout = self.timeout(&request)?;
        let deadline = Instant::now() + timeout;
        let (ready, planned) = oneshot::channel();
        let (sender, parts) = mpsc::channel(BATCHES_AHEAD);
        let (engine, tenant) = (self.clone(), tenant.clone());
        let seat = self.seat()?;
        let running = self.spawn(async move {
            let planned = async {
                let turn = engine.turn(seat).await?;
                let plan = run::plan_one(&engine.inner, &tenant, &request, deadline).await?;
                Ok::<_, QueryError>((turn, plan))
            };
            let (_turn, plan) = match planned.await {
                Ok(planned) => planned,
                Err(error) => {
                    let _caller_left = ready.send(Err(error)).is_err();
                    return;
                }
            };
            if ready.send(Ok(plan.records)).is_ok()
                && let Err(error) = run::send_all(plan, form, &sender).await
            {
                let _caller_left = sender.send(Err(error)).await.is_err();
            }
        });
        let running = Running(running);
        match timeout_at(deadline, planned).await {
            Ok(Ok(Ok(records))) => {
                Ok(RowStream { records, parts, deadline, timeout, _running: running })
            }
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(late(timeout)),
        }
    }

    fn timeout(&self, request: &Request) -> Result<Duration, QueryError> {
        let most = self.inner.settings.timeout_max;
        if request.timeout > most {
            let what = format!("a query may take {} ms at most", most.as_millis());
            return Err(QueryError::Limit { limit: TIMEOUT, what });
        }
        Ok(request.timeout)
    }

    fn seat(&self) -> Result<OwnedSemaphorePermit, QueryError> {
        Arc::clone(&self.inner.seats).try_acquire_owned().map_err(|_| QueryError::Overloaded)
    }

    /// Waits for a turn.
    async fn turn(
        &self,
        seat: OwnedSemaphorePermit,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), QueryError> {
        let turn = Arc::clone(&self.inner.turns).acquire_owned().await;
        Ok((turn.map_err(|_| stopped())?, seat))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.inner.runtime.as_ref().expect("there until the engine is dropped").spawn(task)
    }
}

impl RowStream {
    /// The next piece of the text; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, QueryError>> {
        match timeout_at(self.deadline, self.parts.recv()).await {
            Ok(part) => part,
            Err(_) => Some(Err(late(self.timeout))),
        }
    }
}

/// The setting that bounds a query's time.
const TIMEOUT: &str = "query.timeout_ms";

fn late(timeout: Duration) -> QueryError {
    let what = format!("the query took more than {} ms", timeout.as_millis());
    QueryError::Limit { limit: TIMEOUT, what }
}

/// A query whose task is gone: it panicked, or the process stops.
fn stopped() -> QueryError {
    let what = "the query's task ended without an answer".to_owned();
    QueryError::Engine(datafusion::error::DataFusionError::Internal(what))
}

/// Queries take the time that nobody else wants.
fn give_way() {
    let thread = Some(rustix::thread::gettid());
    if let Err(error) = rustix::process::setpriority_process(thread, NICE) {
        tracing::debug!(%error, "queries keep the priority of everything else");
    }
}
