//! `kimberlite repl`: SQL by hand, one statement after the other.
//!
//! On a terminal it is a line editor; what comes through a pipe is taken line by line, up to the first error.

mod editor;
mod words;

use std::{
    env,
    io::{self, BufRead as _, BufWriter, IsTerminal as _, Write as _},
    path::PathBuf,
};

use clap::{Args, ValueEnum as _};
use hyper::header::HeaderValue;
use reedline::Signal;
use serde::Deserialize;

use super::{
    Global, Output, bearer,
    client::{Client, ClientError},
    query::{QueryError, Question, ask},
    target::Target,
    with_causes,
};
use editor::{COMMANDS, Moment, editor};
use words::is_whole;

/// Ask in SQL by hand: several lines up to `;`, completion by Tab, `.help` for more.
#[derive(Debug, Args)]
pub(super) struct ReplArgs {
    /// Where the server is, as `http://host:port`.
    #[arg(long, env = "KIMBERLITE_URL", default_value = "http://127.0.0.1:7070")]
    url: Target,
    /// API key, sent as `Authorization: Bearer`.
    #[arg(long, env = "KIMBERLITE_KEY", hide_env_values = true, value_parser = bearer)]
    key: Option<HeaderValue>,
    /// How rows are printed at first.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Keep nothing of what is typed. Else it goes to `kimberlite/history` in the folder for state of the user, whom alone it can be read by.
    #[arg(long)]
    no_history: bool,
}

/// Why the shell ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplError {
    /// A statement that came through a pipe failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The terminal cannot be used.
    #[error("the terminal cannot be used: {0}")]
    Terminal(#[source] io::Error),
    /// A command that is none.
    #[error("{0}")]
    Command(String),
}

/// What holds between statements.
struct Shell {
    client: Client,
    output: Output,
    as_of: Option<String>,
}

/// What a command asks for beside its output.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Leave,
}

/// Runs until the end of the input or `.quit`.
///
/// # Errors
/// See [`ReplError`].
pub(super) fn run(args: ReplArgs) -> Result<(), ReplError> {
    let ReplArgs { url, key, output, no_history } = args;
    let client = Client::new(&Global { url, key, output });
    let mut shell = Shell { client, output, as_of: None };
    if io::stdin().is_terminal() {
        shell.by_hand(if no_history { None } else { history() })
    } else {
        shell.through_pipe()
    }
}

/// The file that keeps what was typed, after the XDG base directory specification.
fn history() -> Option<PathBuf> {
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let state = state.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".local/state")));
    Some(state?.join("kimberlite/history"))
}

impl Shell {
    fn by_hand(&mut self, history: Option<PathBuf>) -> Result<(), ReplError> {
        let names = match self.names() {
            Ok(names) => names,
            Err(error) => {
                eprintln!("names are not completed: {}", with_causes(&error));
                Vec::new()
            }
        };
        let mut editor = editor(names, history).map_err(ReplError::Terminal)?;
        loop {
            let prompt = Moment(self.as_of.as_deref());
            match editor.read_line(&prompt).map_err(ReplError::Terminal)? {
                Signal::Success(text) => match self.take(&text) {
                    Ok(Then::GoOn) => {}
                    Ok(Then::Leave) => return Ok(()),
                    Err(error) => eprintln!("error: {}", with_causes(&error)),
                },
                Signal::CtrlC => {}
                _ => return Ok(()),
            }
        }
    }

    fn through_pipe(&mut self) -> Result<(), ReplError> {
        let mut text = String::new();
        for line in io::stdin().lock().lines() {
            text.push_str(&line.map_err(|e| ReplError::Query(QueryError::Input(e)))?);
            if is_whole(&text) {
                if self.take(&text)? == Then::Leave {
                    return Ok(());
                }
                text.clear();
            } else {
                text.push('\n');
            }
        }
        self.take(&text)?;
        Ok(())
    }

    /// Carries out statements or a command.
    fn take(&mut self, text: &str) -> Result<Then, ReplError> {
        let text = text.trim();
        if let Some(command) = text.strip_prefix('.') {
            return self.command(command.trim_end_matches(';'));
        }
        if !text.is_empty() {
            self.ask(text, Vec::new())?;
        }
        Ok(Then::GoOn)
    }

    fn ask(&self, sql: &str, params: Vec<serde_json::Value>) -> Result<(), QueryError> {
        let as_of = self.as_of.as_deref();
        let question = Question { sql, params, as_of, timeout_ms: None };
        let mut out = BufWriter::new(io::stdout().lock());
        ask(&self.client, &question, self.output, &mut out)?;
        out.flush().map_err(QueryError::Output)
    }

    fn command(&mut self, command: &str) -> Result<Then, ReplError> {
        let mut words = command.split_whitespace();
        let (name, argument) = (words.next().unwrap_or_default(), words.next());
        if words.next().is_some() {
            return Err(ReplError::Command(format!(".{name} takes one word")));
        }
        match (name, argument) {
            ("quit" | "exit", None) => return Ok(Then::Leave),
            ("help", None) => {
                let lines = COMMANDS.map(|(name, what)| format!("{name:<9}{what}\n"));
                let more = "Statements end with `;`. `t AS OF POSITION n` is a table as it was.";
                say(&format!("{}{more}", lines.concat()))?;
            }
            ("tables", None) => self.ask(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1",
                Vec::new(),
            )?,
            ("schema", None) => self.ask(&schema(""), Vec::new())?,
            ("schema", Some(table)) => {
                self.ask(&schema("AND table_name = $1"), vec![table.into()])?;
            }
            ("asof", None) => {
                say(&format!("as of {}", self.as_of.as_deref().unwrap_or("now")))?;
            }
            ("asof", Some("now")) => self.as_of = None,
            ("asof", Some(moment)) => {
                // What nobody can answer is no moment to go on with.
                let before = self.as_of.replace(moment.to_owned());
                if let Err(error) = self.try_moment() {
                    self.as_of = before;
                    return Err(error.into());
                }
            }
            ("output", Some(form)) => {
                self.output = Output::from_str(form, true)
                    .map_err(|_| ReplError::Command(".output takes json or table".to_owned()))?;
            }
            _ => return Err(ReplError::Command(format!(".{command} is no command: see .help"))),
        }
        Ok(Then::GoOn)
    }

    /// Asks for nothing, as of the moment.
    fn try_moment(&self) -> Result<(), QueryError> {
        let as_of = self.as_of.as_deref();
        let question =
            Question { sql: "SELECT 1 AS one", params: Vec::new(), as_of, timeout_ms: None };
        ask(&self.client, &question, Output::Json, &mut io::sink())
    }

    /// Names of tables, columns and functions.
    fn names(&self) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        struct Names {
            rows: Vec<(String,)>,
        }
        let sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' \
                   UNION SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' \
                   UNION SELECT routine_name FROM information_schema.routines ORDER BY 1";
        let body = serde_json::json!({"sql": sql}).to_string();
        let answer = self.client.post("/v1/query", &[], body.as_bytes())?;
        let names: Names = self.client.parse(&answer.body)?;
        let words = |name: &String| name.chars().all(|c| c.is_alphanumeric() || c == '_');
        Ok(names.rows.into_iter().map(|(name,)| name).filter(words).collect())
    }
}

fn say(text: &str) -> Result<(), QueryError> {
    writeln!(io::stdout(), "{text}").map_err(QueryError::Output)
}

fn schema(condition: &str) -> String {
    format!(
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns \
         WHERE table_schema = 'public' {condition} ORDER BY table_name, ordinal_position"
    )
}
