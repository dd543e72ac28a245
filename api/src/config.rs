//! The configuration: one table from which the reader, `config --explain` and `/docs/config` are
//! made.
//!
//! Values come from `KIMBERLITE_*` environment variables. There is no configuration file, and a
//! variable that the table does not know is an error.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    limits::{STAMP_EVERY_S_MAX, WITNESSES_MAX},
    stamps::AuthorityPlace,
    witnesses::WitnessPlace,
};

const PREFIX: &str = "KIMBERLITE_";

/// What a user may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the log is kept, unless the command line says otherwise.
    pub data: PathBuf,
    /// Host names, beside loopback ones, under which this server answers.
    pub http_hosts: Vec<String>,
    /// Origins whose pages may call this server.
    pub cors_origins: Vec<String>,
    /// Connections served at one time.
    pub connections_max: usize,
    /// Time in which a request's head, or an answer to an HTTP/2 PING, has to arrive.
    pub header_timeout: Duration,
    /// Time in which a body, or a further piece of a bulk body, has to arrive.
    pub body_timeout: Duration,
    /// Time in which a caller has to take something of an answer.
    pub send_timeout: Duration,
    /// How often followers hear from an idle server.
    pub heartbeat: Duration,
    /// How long a stopping server waits for requests under way.
    pub shutdown_timeout: Duration,
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// How fast closed files are read again to find damage.
    pub scrub_bytes_per_s: u64,
    /// Whether segments are compressed once they are closed.
    pub compresses: bool,
    /// What the origins of logs begin with; empty: made from the cluster's id.
    pub log_origin: String,
    /// Who is asked to cosign checkpoints.
    pub witnesses: Vec<WitnessPlace>,
    /// Who is asked to stamp checkpoints with the time.
    pub authority: Option<AuthorityPlace>,
    /// How long a stamp is new.
    pub stamped_every: Duration,
    /// Where signing keys are kept; empty: in the data folder.
    pub keys_folder: PathBuf,
    /// Bytes that one query may hold.
    pub query_memory_bytes: usize,
    /// Queries that run at once.
    pub queries_max: usize,
    /// The longest time that a query may take.
    pub query_timeout: Duration,
    /// What is logged.
    pub log_level: String,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Self {
            data: PathBuf::new(),
            http_hosts: Vec::new(),
            cors_origins: Vec::new(),
            connections_max: 0,
            header_timeout: Duration::ZERO,
            body_timeout: Duration::ZERO,
            send_timeout: Duration::ZERO,
            heartbeat: Duration::ZERO,
            shutdown_timeout: Duration::ZERO,
            segment_bytes: 0,
            scrub_bytes_per_s: 0,
            compresses: false,
            log_origin: String::new(),
            witnesses: Vec::new(),
            authority: None,
            stamped_every: Duration::ZERO,
            keys_folder: PathBuf::new(),
            query_memory_bytes: 0,
            queries_max: 0,
            query_timeout: Duration::ZERO,
            log_level: String::new(),
        };
        for key in KEYS {
            (key.set)(&mut config, key.default).expect("a test sets every default");
        }
        config
    }
}

/// A value that cannot be, said without its key.
type Wrong = &'static str;

/// One row of the table.
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// Its default; empty for none.
    pub default: &'static str,
    /// Its unit or form.
    pub unit: &'static str,
    /// What it does.
    pub what: &'static str,
    set: fn(&mut Config, &str) -> Result<(), Wrong>,
}

/// Every key. `listen`, `url` and `key` are read by the command line, whose flags stand
/// above them.
pub const KEYS: &[Key] = &[
    Key {
        name: "listen",
        env: "KIMBERLITE_LISTEN",
        default: "127.0.0.1:7070",
        unit: "address:port",
        what: "Where the server listens (--listen).",
        set: |_, text| text.parse::<SocketAddr>().map(drop).map_err(|_| "is no address:port"),
    },
    Key {
        name: "data",
        env: "KIMBERLITE_DATA",
        default: "./kimberlite-data",
        unit: "folder",
        what: "Where the log is kept (--data).",
        set: |config, text| {
            config.data = text.into();
            match text {
                "" => Err("is empty"),
                _ if text.contains(char::REPLACEMENT_CHARACTER) => Err("is not UTF-8"),
                _ => Ok(()),
            }
        },
    },
    Key {
        name: "url",
        env: "KIMBERLITE_URL",
        default: "http://127.0.0.1:7070",
        unit: "URL",
        what: "The server that client commands talk to (--url).",
        set: |_, text| if text.is_empty() { Err("is empty") } else { Ok(()) },
    },
    Key {
        name: "key",
        env: "KIMBERLITE_KEY",
        default: "",
        unit: "text",
        what: "The API key that client commands send (--key).",
        set: |_, _| Ok(()),
    },
    Key {
        name: "http.hosts",
        env: "KIMBERLITE_HTTP_HOSTS",
        default: "",
        unit: "names, separated by commas",
        what: "Host names, beside loopback ones, under which the server answers; others get 421.",
        set: |config, text| {
            config.http_hosts = list(text).map(str::to_ascii_lowercase).collect();
            let fits = |h: &String| !h.contains(['/', ' ', '@']);
            if config.http_hosts.iter().all(fits) { Ok(()) } else { Err("holds no host name") }
        },
    },
    Key {
        name: "cors.origins",
        env: "KIMBERLITE_CORS_ORIGINS",
        default: "",
        unit: "origins, separated by commas",
        what: "Origins such as https://app.example.com whose pages may call the server; others get 403.",
        set: |config, text| {
            config.cors_origins = list(text).map(str::to_ascii_lowercase).collect();
            let fits = |o: &String| {
                o.split_once("://").is_some_and(|(_, host)| !host.is_empty() && !host.contains('/'))
                    && o.bytes().all(|b| b.is_ascii_graphic())
            };
            if config.cors_origins.iter().all(fits) { Ok(()) } else { Err("holds no origin") }
        },
    },
    Key {
        name: "http.connections_max",
        env: "KIMBERLITE_HTTP_CONNECTIONS_MAX",
        default: "4096",
        unit: "connections",
        what: "Connections served at one time; further ones get 503.",
        set: |config, text| {
            config.connections_max = number(text, 1, 1 << 20)? as usize;
            Ok(())
        },
    },
    Key {
        name: "http.header_timeout_ms",
        env: "KIMBERLITE_HTTP_HEADER_TIMEOUT_MS",
        default: "30000",
        unit: "milliseconds",
        what: "Time in which a request's head has to arrive, and how long an unused HTTP/1.1 connection stays open; an \
               HTTP/2 connection is asked this often whether its caller is still there.",
        set: |config, text| milliseconds(&mut config.header_timeout, text),
    },
    Key {
        name: "http.body_timeout_ms",
        env: "KIMBERLITE_HTTP_BODY_TIMEOUT_MS",
        default: "30000",
        unit: "milliseconds",
        what: "Time in which a request's body, or the next piece of a bulk body, has to arrive; else 408.",
        set: |config, text| milliseconds(&mut config.body_timeout, text),
    },
    Key {
        name: "http.send_timeout_ms",
        env: "KIMBERLITE_HTTP_SEND_TIMEOUT_MS",
        default: "60000",
        unit: "milliseconds",
        what: "Time in which a caller has to take something of an answer that waits for it, followers too; else the \
               connection is closed.",
        set: |config, text| milliseconds(&mut config.send_timeout, text),
    },
    Key {
        name: "follow.heartbeat_ms",
        env: "KIMBERLITE_FOLLOW_HEARTBEAT_MS",
        default: "10000",
        unit: "milliseconds",
        what: "How often a follower gets a heartbeat, and progress while its filter matches nothing.",
        set: |config, text| milliseconds(&mut config.heartbeat, text),
    },
    Key {
        name: "shutdown.timeout_ms",
        env: "KIMBERLITE_SHUTDOWN_TIMEOUT_MS",
        default: "10000",
        unit: "milliseconds",
        what: "How long a stopping server waits for requests under way.",
        set: |config, text| milliseconds(&mut config.shutdown_timeout, text),
    },
    Key {
        name: "log.segment_bytes",
        env: "KIMBERLITE_LOG_SEGMENT_BYTES",
        default: "268435456",
        unit: "bytes",
        what: "Size of a new segment file.",
        set: |config, text| {
            config.segment_bytes =
                number(text, 1 << 20, kimberlite_store::limits::SEGMENT_BYTES_MAX)?;
            Ok(())
        },
    },
    Key {
        name: "store.scrub_bytes_per_s",
        env: "KIMBERLITE_STORE_SCRUB_BYTES_PER_S",
        default: "8388608",
        unit: "bytes a second; 0 turns it off",
        what: "How fast closed segments and index files are read again in the background to find damage.",
        set: |config, text| {
            config.scrub_bytes_per_s = number(text, 0, 1 << 40)?;
            Ok(())
        },
    },
    Key {
        name: "store.compression",
        env: "KIMBERLITE_STORE_COMPRESSION",
        default: "zstd",
        unit: "zstd or none",
        what: "How segments are compressed once they are closed, in the background. What is compressed stays so.",
        set: |config, text| {
            config.compresses = match text {
                "zstd" => true,
                "none" => false,
                _ => return Err("is neither zstd nor none"),
            };
            Ok(())
        },
    },
    Key {
        name: "log.origin",
        env: "KIMBERLITE_LOG_ORIGIN",
        default: "",
        unit: "a name without spaces and +, at most 128 bytes; empty: `kimberlite-` and 16 digits of the cluster's id",
        what: "What the origin of each signed log begins with, before `/` and the tenant. Fixed at the first start.",
        set: |config, text| {
            text.clone_into(&mut config.log_origin);
            Ok(())
        },
    },
    Key {
        name: "log.witnesses",
        env: "KIMBERLITE_LOG_WITNESSES",
        default: "",
        unit: "an http:// URL, a space and a public key (vkey) for each witness, separated by commas; at most 16",
        what: "Who is asked to cosign each checkpoint (C2SP tlog-witness). A witness that does not answer delays nothing.",
        set: |config, text| {
            config.witnesses = list(text).map(str::parse).collect::<Result<_, _>>()?;
            let witnesses = &config.witnesses;
            let twice = |(at, w): (usize, &WitnessPlace)| {
                witnesses[..at].iter().any(|earlier| earlier.key().name() == w.key().name())
            };
            match witnesses.len() {
                0..=WITNESSES_MAX if witnesses.iter().enumerate().any(twice) => {
                    Err("names a witness twice")
                }
                0..=WITNESSES_MAX => Ok(()),
                _ => Err("names more than 16 witnesses"),
            }
        },
    },
    Key {
        name: "timestamps.url",
        env: "KIMBERLITE_TIMESTAMPS_URL",
        default: "",
        unit: "an http:// URL; empty: nobody",
        what: "The time authority (RFC 3161) that is asked to stamp checkpoints; its tokens become records. One that does not answer delays nothing.",
        set: |config, text| {
            config.authority = if text.is_empty() { None } else { Some(text.parse()?) };
            Ok(())
        },
    },
    Key {
        name: "timestamps.every_s",
        env: "KIMBERLITE_TIMESTAMPS_EVERY_S",
        default: "3600",
        unit: "seconds",
        what: "How long after a time stamp the next one is asked for, if there are other records since.",
        set: |config, text| {
            config.stamped_every = Duration::from_secs(number(text, 1, STAMP_EVERY_S_MAX)?);
            Ok(())
        },
    },
    Key {
        name: "keys.folder",
        env: "KIMBERLITE_KEYS_FOLDER",
        default: "",
        unit: "folder; empty: `keys` in the data folder",
        what: "Where the keys that sign logs are kept. No backup holds them: keep it apart, and a copy of it. Never bring an older copy back \
               together with older data: the log would sign a second history under its name, and only a witness would notice.",
        set: |config, text| {
            config.keys_folder = text.into();
            Ok(())
        },
    },
    Key {
        name: "query.memory_bytes",
        env: "KIMBERLITE_QUERY_MEMORY_BYTES",
        default: "268435456",
        unit: "bytes",
        what: "What one query may hold of sorted, grouped and joined rows; beyond, it fails with 422.",
        set: |config, text| {
            config.query_memory_bytes = number(text, 1 << 20, 1 << 40)? as usize;
            Ok(())
        },
    },
    Key {
        name: "query.running_max",
        env: "KIMBERLITE_QUERY_RUNNING_MAX",
        default: "4",
        unit: "queries",
        what: "Queries that run at one time; 64 more wait for their turn, further ones get 503.",
        set: |config, text| {
            config.queries_max = number(text, 1, 1024)? as usize;
            Ok(())
        },
    },
    Key {
        name: "query.timeout_ms",
        env: "KIMBERLITE_QUERY_TIMEOUT_MS",
        default: "30000",
        unit: "milliseconds",
        what: "How long a query may take, its waiting and the sending of its rows included; then it fails with 422. A request may ask for less.",
        set: |config, text| milliseconds(&mut config.query_timeout, text),
    },
    Key {
        name: "log.level",
        env: "KIMBERLITE_LOG_LEVEL",
        default: "info",
        unit: "error, warn, info, debug or trace",
        what: "What the server writes to its standard error.",
        set: |config, text| {
            if !["error", "warn", "info", "debug", "trace"].contains(&text) {
                return Err("is none of error, warn, info, debug and trace");
            }
            text.clone_into(&mut config.log_level);
            Ok(())
        },
    },
];

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No key has this variable.
    #[error("{0} is no setting; `kimberlite config --explain` lists them")]
    Unknown(String),
    /// A value is not of its key's form.
    #[error("{env} {wrong}; it takes {unit}")]
    Value {
        /// The variable.
        env: &'static str,
        /// What is wrong with it.
        wrong: &'static str,
        /// What it takes.
        unit: &'static str,
    },
}

impl Config {
    /// Reads the `KIMBERLITE_*` variables among `variables`.
    ///
    /// # Errors
    /// An unknown key, or a value that does not fit its key.
    pub fn read(variables: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (name, value) in variables.filter(|(name, _)| name.starts_with(PREFIX)) {
            let Some(key) = KEYS.iter().find(|k| k.env == name) else {
                return Err(ConfigError::Unknown(name));
            };
            (key.set)(&mut config, value.trim()).map_err(|wrong| ConfigError::Value {
                env: key.env,
                wrong,
                unit: key.unit,
            })?;
        }
        Ok(config)
    }

    /// Reads this process's environment.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn from_environment() -> Result<Self, ConfigError> {
        // A variable that is not UTF-8 is either not ours or not a value that any key takes.
        Self::read(std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        }))
    }
}

/// The table as text: each key, default, unit and environment variable.
pub fn explain() -> String {
    let mut text = String::new();
    for key in KEYS {
        let default = if key.default.is_empty() { "(none)" } else { key.default };
        writeln!(text, "{}\n    {}", key.name, key.what).expect("strings take all");
        writeln!(text, "    default {default}; {}; {}\n", key.unit, key.env)
            .expect("strings take all");
    }
    text
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn number(text: &str, min: u64, max: u64) -> Result<u64, Wrong> {
    let n: u64 = text.parse().map_err(|_| "is no whole number")?;
    if (min..=max).contains(&n) { Ok(n) } else { Err("is out of range") }
}

fn milliseconds(to: &mut Duration, text: &str) -> Result<(), Wrong> {
    *to = Duration::from_millis(number(text, 1, 24 * 3600 * 1000)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITNESS: &str = "w.example/w1+85687096+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";
    const LOG: &str = "log.example/t1+76c3e1aa+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_refused() {
        assert_eq!(
            read(&[("KIMBERLITE_LISTN", "x")]),
            Err(ConfigError::Unknown("KIMBERLITE_LISTN".to_owned()))
        );
        assert_eq!(read(&[("HOME", "/"), ("PATH", "/bin")]), Ok(Config::default()));
        for (env, value) in [
            ("KIMBERLITE_LISTEN", "here"),
            ("KIMBERLITE_HTTP_HOSTS", "http://a/b"),
            ("KIMBERLITE_CORS_ORIGINS", "example.com"),
            ("KIMBERLITE_CORS_ORIGINS", "https://example.com/path"),
            ("KIMBERLITE_HTTP_CONNECTIONS_MAX", "0"),
            ("KIMBERLITE_FOLLOW_HEARTBEAT_MS", "10s"),
            ("KIMBERLITE_LOG_SEGMENT_BYTES", "-1"),
            ("KIMBERLITE_LOG_LEVEL", "loud"),
            ("KIMBERLITE_LOG_WITNESSES", "http://127.0.0.1:7071"),
            ("KIMBERLITE_TIMESTAMPS_URL", "https://tsa.example/"),
            ("KIMBERLITE_TIMESTAMPS_URL", "http://user:secret@tsa.example/"),
            ("KIMBERLITE_TIMESTAMPS_EVERY_S", "0"),
            ("KIMBERLITE_LOG_WITNESSES", &format!("https://w.example {WITNESS}")),
            ("KIMBERLITE_LOG_WITNESSES", &format!("http://h/?a=1 {WITNESS}")),
            ("KIMBERLITE_LOG_WITNESSES", &format!("http://h {LOG}")),
            ("KIMBERLITE_LOG_WITNESSES", &format!("http://h {WITNESS}, http://i {WITNESS}")),
        ] {
            assert!(
                matches!(read(&[(env, value)]), Err(ConfigError::Value { .. })),
                "{env}={value}"
            );
        }
    }

    #[test]
    fn names_and_variables_agree_and_stand_once() {
        for (i, key) in KEYS.iter().enumerate() {
            let env = format!("{PREFIX}{}", key.name.replace('.', "_").to_ascii_uppercase());
            assert_eq!(key.env, env);
            assert!(KEYS[..i].iter().all(|other| other.name != key.name), "{}", key.name);
            assert!(explain().contains(key.env));
        }
    }
}
