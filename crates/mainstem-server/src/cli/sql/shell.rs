//! The interactive shell: history, completion of names and keywords, psql's most used commands.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, Helper, Highlighter, Hinter};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{SqlArgs, connect, execute_until_cancelled, lines};

const KEYWORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "JOIN",
    "LEFT JOIN",
    "CREATE SOURCE",
    "CREATE TABLE",
    "CREATE MATERIALIZED VIEW",
    "CREATE VIEW",
    "DROP",
    "INSERT INTO",
    "VALUES",
    "UPDATE",
    "SET",
    "DELETE FROM",
    "EXPLAIN",
    "SHOW TABLES",
    "SHOW SOURCES",
    "SHOW MATERIALIZED VIEWS",
    "SHOW JOBS",
    "DESCRIBE",
    "FLUSH",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "COPY",
    "WATERMARK FOR",
    "EMIT ON WINDOW CLOSE",
    "FORMAT PLAIN ENCODE JSON",
    "WITH",
    "DISTINCT",
    "HAVING",
];

const HELP: &str = "statements end with ;
  \\d [NAME]   relations, or the columns of one        \\q   quit (or Ctrl-D)
  \\dt \\dm \\ds  tables, materialized views, sources     \\?   this";

#[derive(Helper, Hinter, Highlighter)]
struct Names {
    names: Vec<String>,
}

impl Completer for Names {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..position).unwrap_or(line);
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let start =
            before.rfind(|c| !is_word(c)).map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let word = before.get(start..).unwrap_or_default().to_lowercase();
        let all = self.names.iter().map(String::as_str).chain(KEYWORDS.iter().copied());
        let found = all.filter(|name| !word.is_empty() && name.to_lowercase().starts_with(&word));
        Ok((start, found.map(str::to_owned).collect()))
    }
}

impl Validator for Names {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let input = context.input().trim_start();
        let is_complete = input.starts_with('\\') || lines::is_complete(input);
        Ok(if is_complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

pub(super) fn run(runtime: &Runtime, client: Client, args: &SqlArgs) -> anyhow::Result<ExitCode> {
    let mut client = client;
    let mut editor: Editor<Names, FileHistory> = Editor::with_config(Config::builder().auto_add_history(true).build())?;
    editor.set_helper(Some(Names { names: runtime.block_on(names(&client)) }));
    let history = history_file();
    if let Some(history) = &history {
        // No history yet is fine.
        let _ = editor.load_history(history);
    }
    println!("connected to {}; \\? for help", args.pg);
    loop {
        match editor.readline(&format!("{}=> ", args.database)) {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) if matches!(line.trim(), "\\q" | "quit" | "exit" | "quit;" | "exit;") => break,
            Ok(line) if line.trim() == "\\?" => println!("{HELP}"),
            Ok(line) => {
                let sql = expand(line.trim());
                let mut out = io::stdout().lock();
                if runtime.block_on(execute_until_cancelled(&client, &sql, &mut out)).is_err() && client.is_closed() {
                    writeln!(out, "the connection is lost; connecting again")?;
                    client = runtime.block_on(connect(args))?;
                }
                if let Some(helper) = editor.helper_mut() {
                    helper.names = runtime.block_on(names(&client));
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(history) = &history {
        let _ = editor.save_history(history);
    }
    Ok(ExitCode::SUCCESS)
}

/// psql's commands as statements.
fn expand(line: &str) -> String {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["\\d"] => "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'public' \
                    ORDER BY table_type, table_name"
            .to_owned(),
        ["\\d", name] => format!("DESCRIBE {name}"),
        ["\\dt"] => "SHOW TABLES".to_owned(),
        ["\\dm"] => "SHOW MATERIALIZED VIEWS".to_owned(),
        ["\\ds"] => "SHOW SOURCES".to_owned(),
        _ => line.to_owned(),
    }
}

async fn names(client: &Client) -> Vec<String> {
    let query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' \
                 UNION SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1";
    let Ok(messages) = client.simple_query(query).await else { return Vec::new() };
    let name = |message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    messages.into_iter().filter_map(name).collect()
}

fn history_file() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from)?;
    let state = std::env::var_os("XDG_STATE_HOME").map_or_else(|| home.join(".local/state"), PathBuf::from);
    let dir = state.join("mainstem");
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("sql_history"))
}
