//! The line that is typed into: history, completion, colours, several lines.

use std::{borrow::Cow, fs::OpenOptions, io, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use nu_ansi_term::{Color, Style};
use reedline::{
    ColumnarMenu, Completer, CompletionResult, Emacs, FileBackedHistory, Highlighter, KeyCode,
    KeyModifiers, MenuBuilder as _, Prompt, PromptEditMode, PromptHistorySearch,
    PromptHistorySearchStatus, Reedline, ReedlineEvent, ReedlineMenu, Span, StyledText, Suggestion,
    ValidationResult, Validator, default_emacs_keybindings,
};

use super::words::{Kind, is_whole, pieces};

/// Statements that history keeps.
const HISTORY_MAX: usize = 1000;
const MENU: &str = "completion";

/// Words of SQL, in the order in which they are proposed.
const KEYWORDS: [&str; 72] = [
    "ALL",
    "AND",
    "ANY",
    "AS",
    "AS OF POSITION",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "CROSS",
    "CURRENT_TIMESTAMP",
    "DATE",
    "DESC",
    "DISTINCT",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "EXTRACT",
    "FALSE",
    "FILTER",
    "FIRST",
    "FOLLOWING",
    "FOR SYSTEM_TIME AS OF",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER",
    "INTERSECT",
    "INTERVAL",
    "IS",
    "JOIN",
    "LAST",
    "LATERAL",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NATURAL",
    "NOT",
    "NULL",
    "NULLS",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "PRECEDING",
    "RANGE",
    "RECURSIVE",
    "RIGHT",
    "ROWS",
    "SELECT",
    "SIMILAR",
    "THEN",
    "TIME",
    "TIMESTAMP",
    "TO",
    "TRUE",
    "UNBOUNDED",
    "UNION",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
];

/// Commands of the shell itself.
pub(super) const COMMANDS: [(&str, &str); 6] = [
    (".asof", "what tables are of: a position, a time, or `now`; alone, it says which"),
    (".help", "this"),
    (".output", "`json` or `table`"),
    (".quit", "leave, as Ctrl-D does"),
    (".schema", "columns of all tables, or of one"),
    (".tables", "the tables"),
];

/// A line editor that knows some names, and keeps what was typed in a file where there is one.
///
/// # Errors
/// The file of the history cannot be made.
pub(super) fn editor(names: Vec<String>, history: Option<PathBuf>) -> io::Result<Reedline> {
    let mut keys = default_emacs_keybindings();
    let complete =
        ReedlineEvent::UntilFound(vec![ReedlineEvent::Menu(MENU.into()), ReedlineEvent::MenuNext]);
    keys.add_binding(KeyModifiers::NONE, KeyCode::Tab, complete);
    let menu = Box::new(ColumnarMenu::default().with_name(MENU));
    let mut editor = Reedline::create()
        .with_completer(Box::new(Names { names }))
        .with_quick_completions(true)
        .with_partial_completions(true)
        .with_menu(ReedlineMenu::EngineCompleter(menu))
        .with_edit_mode(Box::new(Emacs::new(keys)))
        .with_highlighter(Box::new(Colours))
        .with_validator(Box::new(Whole));
    if let Some(file) = history {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Statements name people: nobody else on this machine is to read them.
        OpenOptions::new().create(true).append(true).mode(0o600).open(&file)?;
        let kept = FileBackedHistory::with_file(HISTORY_MAX, file).map_err(io::Error::other)?;
        editor = editor.with_history(Box::new(kept));
    }
    Ok(editor)
}

/// Proposes commands, keywords and names.
struct Names {
    names: Vec<String>,
}

impl Names {
    fn proposals(&self, line: &str, at: usize) -> (Span, Vec<String>) {
        let before = &line[..at];
        let start = before
            .rfind(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.')))
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        if before.trim_start().starts_with('.') && before[..start].trim().is_empty() {
            let typed = before[start..].to_lowercase();
            let fit = COMMANDS.iter().map(|(name, _)| *name).filter(|c| c.starts_with(&typed));
            return (Span::new(start, at), fit.map(str::to_owned).collect());
        }
        // Behind a point stands a column.
        let start = start + before[start..].rfind('.').map_or(0, |point| point + 1);
        let typed = &before[start..];
        if typed.is_empty() {
            return (Span::new(start, at), Vec::new());
        }
        let lower = typed.to_lowercase();
        let column = before[..start].ends_with('.');
        let keywords = KEYWORDS.iter().filter(|k| !column && k.to_lowercase().starts_with(&lower));
        // As it is being typed.
        let small = typed.chars().all(char::is_lowercase);
        let keywords = keywords.map(|k| if small { k.to_lowercase() } else { (*k).to_owned() });
        let names = self.names.iter().filter(|n| n.to_lowercase().starts_with(&lower)).cloned();
        (Span::new(start, at), names.chain(keywords).collect())
    }
}

impl Completer for Names {
    fn complete(&mut self, line: &str, pos: usize) -> CompletionResult {
        let (span, proposals) = self.proposals(line, pos);
        let proposals = proposals.into_iter().map(|value| Suggestion {
            value,
            span,
            append_whitespace: true,
            ..Suggestion::default()
        });
        CompletionResult::fresh(proposals.collect::<Vec<_>>())
    }
}

struct Colours;

impl Highlighter for Colours {
    fn highlight(&self, line: &str, _: usize) -> StyledText {
        let mut styled = StyledText::new();
        for piece in pieces(line) {
            let text = &line[piece.range];
            let style = match piece.kind {
                Kind::Word if is_keyword(text) => Style::new().bold().fg(Color::Blue),
                Kind::Number => Style::new().fg(Color::Magenta),
                Kind::Text => Style::new().fg(Color::Green),
                Kind::Comment => Style::new().dimmed(),
                Kind::Word | Kind::Name | Kind::End | Kind::Other => Style::new(),
            };
            styled.push((style, text.to_owned()));
        }
        styled
    }
}

fn is_keyword(word: &str) -> bool {
    KEYWORDS.iter().any(|k| k.split(' ').any(|part| part.eq_ignore_ascii_case(word)))
}

struct Whole;

impl Validator for Whole {
    fn validate(&self, line: &str) -> ValidationResult {
        if is_whole(line) { ValidationResult::Complete } else { ValidationResult::Incomplete }
    }
}

/// What stands before the line: what tables are of, where that is not now.
pub(super) struct Moment<'a>(pub(super) Option<&'a str>);

impl Prompt for Moment<'_> {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        match self.0 {
            Some(as_of) => format!("as of {as_of}").into(),
            None => "".into(),
        }
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        "".into()
    }

    fn render_prompt_indicator(&self, _: PromptEditMode) -> Cow<'_, str> {
        "> ".into()
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        ": ".into()
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        let found = match search.status {
            PromptHistorySearchStatus::Passing => "",
            PromptHistorySearchStatus::Failing => "not found: ",
        };
        format!("({found}{}) ", search.term).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_commands_and_keywords_are_proposed_as_they_are_typed() {
        let names = ["events", "streams", "stream", "occurred_at"].map(str::to_owned).to_vec();
        let names = Names { names };
        for (line, proposed) in [
            ("sel", "select"),
            ("SEL", "SELECT"),
            ("SELECT * FROM eve", "events"),
            ("SELECT e.occ", "occurred_at"),
            ("SELECT e.sel", ""),
            (".sch", ".schema"),
            ("SELECT * FROM events as", "as as of position asc"),
            ("SELECT ", ""),
            ("SELECT 'ä' stre", "streams stream"),
        ] {
            let (span, found) = names.proposals(line, line.len());
            assert_eq!(found.join(" "), proposed, "{line}");
            assert!(line.is_char_boundary(span.start));
        }
    }

    #[test]
    fn keywords_are_told_from_names() {
        assert!(is_keyword("select") && is_keyword("SYSTEM_TIME") && !is_keyword("events"));
        let styled = Colours.highlight("SELECT 'x' -- y", 0);
        assert_eq!(styled.raw_string(), "SELECT 'x' -- y");
        let colours: Vec<_> = styled.buffer.iter().map(|(style, _)| style.foreground).collect();
        assert_eq!(colours[0], Some(Color::Blue));
        assert_eq!(colours[2], Some(Color::Green));
    }
}
