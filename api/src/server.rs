//! The server process: opens the store, accepts connections, and stops without losing what it
//! accepted.

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::extract::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use kimberlite_store::{
    Options, Signing, Store,
    append::AppendError,
    error::OpenError,
    words::{Actor, TenantName},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
};
use tracing_subscriber::EnvFilter;

use crate::{
    app::{App, Routes, TraceId},
    config::Config,
    limits::H2_STREAMS_MAX,
    problem::{Code, Problem},
    stalled::Stalled,
    stamps,
    witness::{MemoryError, Witness, WitnessArgs},
    witnesses,
};

/// The tenant that a development server has ready.
const TENANT: &str = "dev";
/// Who a caller without credentials is.
const ACTOR: &str = "operator";
/// Callers at one time who are being told that there is no room; further ones are hung up on.
const REFUSALS_MAX: usize = 64;
/// How long such a caller may take.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// How a development server is started.
#[derive(Clone, Debug)]
pub struct ServerArgs {
    /// Where it listens; a loopback address.
    pub listen: SocketAddr,
    /// Its data folder; not used with `ephemeral`.
    pub data: PathBuf,
    /// Keep everything in a temporary folder that goes with the process.
    pub ephemeral: bool,
}

/// Why the server did not start, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Without credentials only this machine may call.
    #[error(
        "{0} is no loopback address: a development server asks nobody who they are; use --listen 127.0.0.1:7070"
    )]
    NotLoopback(SocketAddr),
    /// Another process listens there.
    #[error(
        "{0} is in use by another process; choose another place with --listen, such as --listen 127.0.0.1:7071"
    )]
    PortTaken(SocketAddr),
    /// Listening failed otherwise.
    #[error("cannot listen on {listen}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The temporary folder, signals or standard output.
    #[error("{what} failed")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The data folder cannot be opened.
    #[error("the data folder cannot be opened")]
    Open(#[from] OpenError),
    /// The witness's folder cannot be used.
    #[error(transparent)]
    Witness(#[from] MemoryError),
    /// The tenant could not be made.
    #[error("the tenant {TENANT} cannot be made")]
    Tenant(#[source] AppendError),
}

/// Runs a development server until SIGINT or SIGTERM.
///
/// # Errors
/// See [`ServeError`].
pub async fn run(args: ServerArgs, config: Config) -> Result<(), ServeError> {
    start_log(&config);
    let system = |what| move |source| ServeError::System { what, source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("listening for SIGINT"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(system("listening for SIGTERM"))?;
    let server = Server::start(args, config).await?;
    welcome(server.address(), server.vkey().await.as_deref())
        .map_err(system("writing to standard output"))?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    server.stop().await;
    Ok(())
}

/// Runs a witness until SIGINT or SIGTERM.
///
/// # Errors
/// See [`ServeError`].
pub async fn witness(args: WitnessArgs, config: Config) -> Result<(), ServeError> {
    start_log(&config);
    raise_file_limit();
    let system = |what| move |source| ServeError::System { what, source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("listening for SIGINT"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(system("listening for SIGTERM"))?;
    let witness = Witness::open(&args, config.clone())?;
    let listener = listen(args.listen).await?;
    let address = listener.local_addr().map_err(system("asking for the address"))?;
    let stopping = watch::Sender::new(false);
    let accepting = accept(listener, Routes::of(witness.router()), config, stopping.subscribe());
    let accepting = tokio::spawn(accepting);
    let (key, logs) = (witness.verifier(), args.logs.len());
    let mut out = io::stdout();
    writeln!(out, "{} listens on http://{address}   keys of logs: {logs}\n\n  {key}\n", key.name())
        .and_then(|()| out.flush())
        .map_err(system("writing to standard output"))?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stopping.send_replace(true);
    accepting
        .await
        .map_err(|e| ServeError::System { what: "accepting", source: io::Error::other(e) })
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    app: Arc<App>,
    stopping: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    witnesses: JoinSet<()>,
    stamps: JoinSet<()>,
    /// Goes with the server.
    _ephemeral: Option<tempfile::TempDir>,
}

impl Server {
    /// The key that checks the log's checkpoints; `None` while there is none.
    async fn vkey(&self) -> Option<String> {
        let signed = self.app.store.signed_at(&self.app.tenant, 0).await.ok()?;
        signed.keys.last().map(|key| key.vkey.to_string())
    }

    /// Opens the data folder and accepts connections.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn start(args: ServerArgs, config: Config) -> Result<Self, ServeError> {
        if !args.listen.ip().is_loopback() {
            return Err(ServeError::NotLoopback(args.listen));
        }
        raise_file_limit();
        let listener = listen(args.listen).await?;
        let system = |what| move |source| ServeError::System { what, source };
        let address = listener.local_addr().map_err(system("asking for the address"))?;
        let ephemeral =
            args.ephemeral.then(|| tempfile::Builder::new().prefix("kimberlite-").tempdir());
        let ephemeral = ephemeral.transpose().map_err(system("making a temporary folder"))?;
        let folder = ephemeral.as_ref().map_or(args.data, |dir| dir.path().to_owned());
        let config = Config { data: folder.clone(), ..config };
        let keys = match &config.keys_folder {
            empty if empty.as_os_str().is_empty() => folder.join("keys"),
            set => set.clone(),
        };
        let options = Options {
            folder,
            signing: Some(Signing { folder: keys, origin: config.log_origin.clone() }),
            segment_bytes: config.segment_bytes,
            checkpoint_records: kimberlite_store::limits::CHECKPOINT_RECORDS,
            scrub_bytes_per_s: config.scrub_bytes_per_s,
            compresses: config.compresses,
        };
        let opened = tokio::task::spawn_blocking(|| Store::open(options)).await;
        let store = opened
            .map_err(|e| ServeError::System { what: "opening", source: io::Error::other(e) })??;
        let actor = Actor::new(ACTOR).expect("a plain word");
        let name = TenantName::new(TENANT).expect("a plain word");
        let tenant =
            store.create_tenant(actor.clone(), name.clone()).await.map_err(ServeError::Tenant)?;
        let app = App::new(store, tenant, name, actor, config)
            .map_err(system("starting the query engine"))?;
        let stopping = watch::Sender::new(false);
        let routes = Routes::all(&app);
        let accepting =
            tokio::spawn(accept(listener, routes, app.config.clone(), stopping.subscribe()));
        let witnesses = witnesses::ask_all(&app);
        let stamps = stamps::start(&app);
        tracing::info!(%address, "listening");
        Ok(Self { address, app, stopping, accepting, witnesses, stamps, _ephemeral: ephemeral })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Finishes what was accepted, tells followers, and closes the store.
    pub async fn stop(mut self) {
        self.app.drain();
        self.stopping.send_replace(true);
        if let Err(error) = self.accepting.await {
            tracing::error!(%error, "accepting connections broke off");
        }
        self.witnesses.shutdown().await;
        self.stamps.shutdown().await;
        self.app.store.close().await;
    }
}

async fn listen(listen: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(listen).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::PortTaken(listen),
        _ => ServeError::Listen { listen, source },
    })
}

/// Accepts connections until told to stop, then waits for those that are open.
async fn accept(
    listener: TcpListener,
    routes: Routes,
    config: Config,
    mut stopping: watch::Receiver<bool>,
) {
    let builder = Arc::new(builder(&config));
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(config.connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.changed() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Mostly out of file descriptors: connections have to end before another can begin.
                tracing::error!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => {
                let timeout = config.header_timeout;
                let served = serve(
                    stream,
                    config.send_timeout,
                    Arc::clone(&builder),
                    routes.clone(),
                    timeout,
                    graceful.watcher(),
                );
                connections.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Err(_) if connections.len() < config.connections_max + REFUSALS_MAX => {
                connections.spawn(refuse(stream));
            }
            Err(_) => {}
        }
    }
    drop(listener);
    let waited = tokio::time::timeout(config.shutdown_timeout, graceful.shutdown()).await;
    if waited.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "cutting connections that did not end in time"
        );
    }
    connections.shutdown().await;
}

/// Without `pipeline_flush`: with it hyper takes from a body whatever there is, though the caller
/// reads nothing.
fn builder(config: &Config) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(config.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .keep_alive_interval(config.header_timeout)
        .keep_alive_timeout(config.header_timeout);
    builder
}

/// Serves one connection to its end.
async fn serve(
    stream: TcpStream,
    send_timeout: Duration,
    builder: Arc<auto::Builder<TokioExecutor>>,
    routes: Routes,
    head_timeout: Duration,
    watcher: Watcher,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let stream = Stalled::new(stream, send_timeout);
    let spoken = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        spoken.store(true, Ordering::Relaxed);
        routes.clone().call(request)
    });
    let connection = watcher.watch(builder.serve_connection(TokioIo::new(stream), service));
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = &mut connection => return log_end(ended),
        () = tokio::time::sleep(head_timeout) => {}
    }
    // Hyper's own timeout begins once it knows the protocol, which takes a byte from the caller.
    if spoken.load(Ordering::Relaxed) {
        log_end(connection.await);
    }
}

fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Tells a caller that there is no room.
async fn refuse(mut stream: TcpStream) {
    let problem =
        Problem::new(Code::Overloaded, "Too many connections; http.connections_max bounds them.");
    let body = problem.json(TraceId::random());
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let tell = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.shutdown().await?;
        // What was already sent is read, or closing would take the answer with it.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    // Who does not take the answer gets none.
    let _ = tokio::time::timeout(REFUSAL_TIME, tell).await;
}

/// Followers hold a connection each: as many files as the system lets us have.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised =
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Text for people, JSON for machines. Libraries' own lines could carry paths, so only their errors
/// are shown.
fn start_log(config: &Config) {
    let level = &config.log_level;
    let filter = format!(
        "error,kimberlite_api={level},kimberlite_query={level},kimberlite_store={level},kimberlite_consensus={level}"
    );
    let log =
        tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(EnvFilter::new(filter));
    let started = if io::stderr().is_terminal() { log.try_init() } else { log.json().try_init() };
    if started.is_err() {
        tracing::debug!("this process has a log already");
    }
}

/// Where everything is, and what to type first.
fn welcome(address: SocketAddr, vkey: Option<&str>) -> io::Result<()> {
    let url = format!("http://{address}");
    let mut out = io::stdout().lock();
    writeln!(out, "Kimberlite listens on {url}   documentation: {url}/docs   tenant: {TENANT}")?;
    if let Some(vkey) = vkey {
        writeln!(out, "key of the log: {vkey}")?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "  curl {url}/v1/streams/hello/events -H 'Content-Type: application/json' \\\n    \
         -d '{{\"events\":[{{\"type\":\"greeted\",\"data\":{{\"hello\":\"world\"}}}}]}}'"
    )?;
    writeln!(out, "  curl {url}/v1/streams/hello/events")?;
    writeln!(out, "  curl -N -H 'Accept: text/event-stream' {url}/v1/events\n")?;
    out.flush()
}
