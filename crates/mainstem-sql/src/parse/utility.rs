//! Everything that is neither a definition nor DML: transactions, SET, SHOW, COPY, prepared statements.

use datafusion::sql::sqlparser::ast::{
    self, Expr, GroupByExpr, ObjectName, Query, Select, SelectItem, SetExpr, TableFactor, TransactionAccessMode,
    TransactionIsolationLevel, TransactionMode,
};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::reader::Reader;
use super::{fold, types::sql_type_of_ast};
use crate::error::{SqlError, sqlstate};
use crate::statement::{Copy, CopyFormat, CopyTarget, Explain, RelationNoun, ShowKind, Statement, TransactionModes};

impl Reader<'_> {
    /// The whole statement.
    pub(super) fn statement(&mut self) -> Result<Statement, SqlError> {
        let statement = self.any_statement()?;
        self.end()?;
        let may_emit = matches!(&statement, Statement::CreateMaterializedView(_))
            || matches!(&statement, Statement::Explain(explain)
                if matches!(*explain.statement, Statement::CreateMaterializedView(_)));
        if self.emit_on_window_close && !may_emit {
            return Err(SqlError::not_supported(
                "EMIT ON WINDOW CLOSE outside CREATE MATERIALIZED VIEW is not supported",
            ));
        }
        Ok(statement)
    }

    fn any_statement(&mut self) -> Result<Statement, SqlError> {
        let Token::Word(word) = &self.parser.peek_token_ref().token else { return self.other() };
        let word = if word.quote_style.is_some() { String::new() } else { word.value.to_uppercase() };
        match word.as_str() {
            "SELECT" | "WITH" | "VALUES" | "TABLE" => Ok(Statement::Query(self.query()?)),
            "INSERT" | "UPDATE" | "DELETE" => self.dml(),
            "CREATE" => self.after(&["CREATE"], Self::create),
            "DROP" => self.after(&["DROP"], Self::drop),
            "ALTER" => self.after(&["ALTER"], Self::alter),
            "CANCEL" => self.after(&["CANCEL"], Self::cancel_jobs),
            "BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "SAVEPOINT" | "RELEASE" => self.transaction(),
            "FLUSH" => self.after(&["FLUSH"], |_| Ok(Statement::Flush)),
            "WAIT" => self.after(&["WAIT"], |_| Ok(Statement::Wait)),
            "SET" => self.after(&["SET"], Self::set),
            "RESET" => self.after(&["RESET"], |reader| {
                let name = reader.variable()?;
                Ok(Statement::Reset((name != "all").then_some(name)))
            }),
            "SHOW" => self.after(&["SHOW"], Self::show),
            "DESCRIBE" => self.after(&["DESCRIBE"], |reader| Ok(Statement::Describe(reader.name()?))),
            "DESC" => self.after(&["DESC"], |reader| Ok(Statement::Describe(reader.name()?))),
            "EXPLAIN" => self.after(&["EXPLAIN"], Self::explain),
            "COPY" => self.after(&["COPY"], Self::copy),
            "DECLARE" => self.after(&["DECLARE"], Self::declare),
            "FETCH" => self.after(&["FETCH"], |reader| reader.fetch(false)),
            "MOVE" => self.after(&["MOVE"], |reader| reader.fetch(true)),
            "CLOSE" => self.after(&["CLOSE"], |reader| Ok(Statement::Close(reader.ident_or_all()?))),
            "DISCARD" => self.after(&["DISCARD"], Self::discard),
            "PREPARE" => self.after(&["PREPARE"], Self::prepare),
            "EXECUTE" => self.after(&["EXECUTE"], Self::execute),
            "DEALLOCATE" => self.after(&["DEALLOCATE"], |reader| {
                reader.accept(&["PREPARE"]);
                Ok(Statement::Deallocate(reader.ident_or_all()?))
            }),
            "SUBSCRIBE" => self.after(&["SUBSCRIBE"], |reader| Ok(Statement::Subscribe(reader.subscribe()?))),
            _ => self.other(),
        }
    }

    fn after<T>(&mut self, words: &[&str], read: impl FnOnce(&mut Self) -> Result<T, SqlError>) -> Result<T, SqlError> {
        self.expect(words)?;
        read(self)
    }

    /// A statement that only sqlparser knows: a query in parentheses, or one that is refused by name.
    fn other(&mut self) -> Result<Statement, SqlError> {
        if self.sees_token(&Token::LParen) {
            return Ok(Statement::Query(self.query()?));
        }
        let first = self.parser.peek_token_ref().token.to_string().to_uppercase();
        let refused = [
            "TRUNCATE",
            "GRANT",
            "REVOKE",
            "ANALYZE",
            "VACUUM",
            "COMMENT",
            "MERGE",
            "CALL",
            "LOCK",
            "LISTEN",
            "NOTIFY",
            "UNLISTEN",
            "CLUSTER",
            "REINDEX",
            "REFRESH",
            "REASSIGN",
            "SECURITY",
            "DO",
            "LOAD",
            "USE",
            "KILL",
            "CHECKPOINT",
            "IMPORT",
            "RECOVER",
            "BACKUP",
        ];
        if refused.contains(&first.as_str()) {
            let what = match first.as_str() {
                "REFRESH" => {
                    let next = self.parser.peek_nth_token_ref(1).token.to_string().to_uppercase();
                    let last = if next == "MATERIALIZED" { " VIEW" } else { "" };
                    format!("{first} {next}{last}")
                }
                _ => first,
            };
            return Err(self.refuse(what.trim()));
        }
        Err(self.unexpected("an SQL statement"))
    }

    fn transaction(&mut self) -> Result<Statement, SqlError> {
        if self.accept(&["ABORT"]) {
            let _ = self.accept(&["WORK"]) || self.accept(&["TRANSACTION"]);
            return Ok(Statement::Rollback);
        }
        let result = self.parser.parse_statement();
        match self.parsed(result)? {
            ast::Statement::StartTransaction { modes, .. } => {
                self.accept(&["DEFERRABLE"]);
                self.accept(&["NOT", "DEFERRABLE"]);
                Ok(Statement::Begin(modes_of(&modes)))
            }
            ast::Statement::Commit { chain: true, .. } | ast::Statement::Rollback { chain: true, .. } => {
                Err(SqlError::not_supported("AND CHAIN is not supported"))
            }
            ast::Statement::Commit { .. } => Ok(Statement::Commit),
            ast::Statement::Rollback { savepoint: None, .. } => Ok(Statement::Rollback),
            ast::Statement::Rollback { savepoint: Some(name), .. } => Ok(Statement::RollbackTo(fold(&name))),
            ast::Statement::Savepoint { name } => Ok(Statement::Savepoint(fold(&name))),
            ast::Statement::ReleaseSavepoint { name } => Ok(Statement::ReleaseSavepoint(fold(&name))),
            other => Err(SqlError::not_supported(format!("{other} is not supported"))),
        }
    }

    /// A variable's name in lower case.
    fn variable(&mut self) -> Result<String, SqlError> {
        if self.accept(&["TIME", "ZONE"]) {
            return Ok("timezone".to_owned());
        }
        if self.accept(&["TRANSACTION", "ISOLATION", "LEVEL"]) {
            return Ok("transaction_isolation".to_owned());
        }
        Ok(self.name_with_points()?.to_lowercase())
    }

    fn set(&mut self) -> Result<Statement, SqlError> {
        if self.accept(&["SESSION", "CHARACTERISTICS", "AS", "TRANSACTION"]) || self.accept(&["TRANSACTION"]) {
            return self.set_transaction();
        }
        let is_local = self.accept(&["LOCAL"]);
        if !is_local {
            self.accept(&["SESSION"]);
        }
        if self.sees(&["AUTHORIZATION"]) || self.sees(&["ROLE"]) {
            return Err(self.refuse(&format!("SET {}", self.parser.peek_token_ref()).to_uppercase()));
        }
        let is_zone = self.sees(&["TIME", "ZONE"]);
        let name = if self.accept(&["NAMES"]) { "client_encoding".to_owned() } else { self.variable()? };
        if !is_zone && name != "client_encoding" && !self.accept(&["TO"]) {
            self.expect_token(&Token::Eq)?;
        } else if name == "client_encoding" {
            let _ = self.accept(&["TO"]) || self.accept_token(&Token::Eq);
        }
        if self.accept(&["DEFAULT"]) {
            return Ok(Statement::Set { is_local, name, value: None });
        }
        let mut values = Vec::new();
        loop {
            values.push(self.set_value()?);
            if !self.accept_token(&Token::Comma) {
                break;
            }
        }
        Ok(Statement::Set { is_local, name, value: Some(values.join(", ")) })
    }

    fn set_value(&mut self) -> Result<String, SqlError> {
        let minus = if self.accept_token(&Token::Minus) { "-" } else { "" };
        self.accept_token(&Token::Plus);
        match self.parser.peek_token_ref().token.clone() {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => {
                self.parser.advance_token();
                Ok(text)
            }
            Token::Number(text, _) => {
                self.parser.advance_token();
                Ok(format!("{minus}{text}"))
            }
            Token::Word(word) => {
                self.parser.advance_token();
                Ok(if word.quote_style.is_some() { word.value } else { word.value.to_lowercase() })
            }
            _ => Err(self.unexpected("a value")),
        }
    }

    fn set_transaction(&mut self) -> Result<Statement, SqlError> {
        let result = self.parser.parse_transaction_modes();
        Ok(Statement::SetTransaction(modes_of(&self.parsed(result)?)))
    }

    fn show(&mut self) -> Result<Statement, SqlError> {
        if self.accept(&["CREATE"]) {
            let kind = self.relation_noun();
            return Ok(Statement::ShowCreate { kind, name: self.name()? });
        }
        if self.accept(&["COLUMNS", "FROM"]) {
            return Ok(Statement::Describe(self.name()?));
        }
        let kinds: [(&[&str], ShowKind); 10] = [
            (&["SINKS"], ShowKind::Sinks),
            (&["JOBS"], ShowKind::Jobs),
            (&["TABLES"], ShowKind::Tables),
            (&["SOURCES"], ShowKind::Sources),
            (&["MATERIALIZED", "VIEWS"], ShowKind::MaterializedViews),
            (&["VIEWS"], ShowKind::Views),
            (&["TOPICS"], ShowKind::Topics),
            (&["SCHEMAS"], ShowKind::Schemas),
            (&["DATABASES"], ShowKind::Databases),
            (&["FUNCTIONS"], ShowKind::Functions),
        ];
        if let Some((words, kind)) = kinds.into_iter().find(|(words, _)| self.sees(words)) {
            self.accept(words);
            let schema = if self.accept(&["FROM"]) || self.accept(&["IN"]) { Some(self.ident()?) } else { None };
            let like = if self.accept(&["LIKE"]) { Some(self.string()?) } else { None };
            return Ok(Statement::ShowObjects { kind, schema, like });
        }
        for refused in ["INDEXES", "SUBSCRIPTIONS", "CONNECTIONS", "SECRETS", "USERS", "CLUSTER", "INTERNAL"] {
            if self.sees(&[refused]) {
                return Err(self.refuse(&format!("SHOW {refused}")));
            }
        }
        Ok(Statement::ShowVariable(self.variable()?))
    }

    /// `CANCEL JOB[S] id, ...`
    fn cancel_jobs(&mut self) -> Result<Statement, SqlError> {
        if !self.accept(&["JOBS"]) && !self.accept(&["JOB"]) {
            return Err(self.unexpected("JOBS"));
        }
        let mut ids = Vec::new();
        loop {
            let position = self.position();
            let text = self.set_value()?;
            let id = text.parse().map_err(|_| {
                SqlError::new(sqlstate::INVALID_PARAMETER, format!("\"{text}\" is not the id of a job"))
                    .at(position)
                    .with_hint("SHOW JOBS lists them.")
            })?;
            ids.push(id);
            if !self.accept_token(&Token::Comma) {
                return Ok(Statement::CancelJobs(ids));
            }
        }
    }

    pub(super) fn relation_noun(&mut self) -> Option<RelationNoun> {
        if self.accept(&["SOURCE"]) {
            Some(RelationNoun::Source)
        } else if self.accept(&["TABLE"]) {
            Some(RelationNoun::Table)
        } else if self.accept(&["MATERIALIZED", "VIEW"]) {
            Some(RelationNoun::MaterializedView)
        } else if self.accept(&["VIEW"]) {
            Some(RelationNoun::View)
        } else if self.accept(&["SINK"]) {
            Some(RelationNoun::Sink)
        } else if self.accept(&["INDEX"]) {
            Some(RelationNoun::Index)
        } else {
            None
        }
    }

    fn explain(&mut self) -> Result<Statement, SqlError> {
        let (mut analyze, mut verbose) = (false, false);
        if self.sees_token(&Token::LParen) && !self.sees_query_in_parentheses() {
            let result = self.parser.parse_utility_options();
            for option in self.parsed(result)? {
                let is_on = !option.arg.as_ref().is_some_and(|arg| {
                    matches!(arg.to_string().to_lowercase().trim_matches('\''), "false" | "off" | "0" | "no")
                });
                match option.name.value.to_lowercase().as_str() {
                    "analyze" => analyze = is_on,
                    "verbose" => verbose = is_on,
                    "format" if option.arg.as_ref().is_some_and(|arg| arg.to_string().eq_ignore_ascii_case("text")) => {
                    }
                    "costs" | "timing" | "summary" | "buffers" | "settings" | "logical" | "physical" | "trace" => {}
                    other => return Err(self.refuse(&format!("EXPLAIN option {other}"))),
                }
            }
        } else {
            analyze = self.accept(&["ANALYZE"]);
            verbose = self.accept(&["VERBOSE"]);
        }
        let statement = Box::new(self.any_statement()?);
        match statement.as_ref() {
            Statement::Query(_) | Statement::CreateMaterializedView(_) => {}
            Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) if !analyze => {}
            _ => return Err(SqlError::not_supported("EXPLAIN of this statement is not supported")),
        }
        Ok(Statement::Explain(Explain { analyze, verbose, statement }))
    }

    fn sees_query_in_parentheses(&self) -> bool {
        let mut n = 0;
        while self.parser.peek_nth_token_ref(n).token == Token::LParen {
            n += 1;
        }
        let next = self.parser.peek_nth_token_ref(n).token.to_string().to_uppercase();
        ["SELECT", "WITH", "VALUES"].contains(&next.as_str())
    }

    fn copy(&mut self) -> Result<Statement, SqlError> {
        let target = if self.accept_token(&Token::LParen) {
            let target = if self.accept(&["SUBSCRIBE"]) {
                CopyTarget::Changes { subscribe: self.subscribe()? }
            } else {
                CopyTarget::ToStdout { query: self.query()? }
            };
            self.expect_token(&Token::RParen)?;
            self.expect(&["TO"])?;
            target
        } else {
            let result = self.parser.parse_object_name(false);
            let name = self.parsed(result)?;
            let columns = self.optional_idents()?;
            if self.accept(&["FROM"]) {
                CopyTarget::FromStdin { table: super::qualified_name(&name)?, columns }
            } else {
                self.expect(&["TO"])?;
                CopyTarget::ToStdout { query: Box::new(select_from(name, columns)) }
            }
        };
        let stream = if matches!(target, CopyTarget::FromStdin { .. }) { "STDIN" } else { "STDOUT" };
        if !self.accept(&[stream]) {
            return Err(self.refuse("COPY from or to a file").with_hint(format!("Use {stream}; in psql, \\copy.")));
        }
        let mut options = CopyOptions::default();
        self.accept(&["WITH"]);
        if self.accept_token(&Token::LParen) {
            loop {
                self.copy_option(&mut options)?;
                if !self.accept_token(&Token::Comma) {
                    break;
                }
            }
            self.expect_token(&Token::RParen)?;
        } else {
            while !self.at_end() {
                self.copy_option(&mut options)?;
            }
        }
        options.build(target).map(Statement::Copy)
    }

    fn copy_option(&mut self, options: &mut CopyOptions) -> Result<(), SqlError> {
        let position = self.position();
        if self.accept(&["CSV"]) {
            options.format = CopyFormat::Csv;
        } else if self.accept(&["FORMAT"]) {
            options.format = match self.option_word()?.as_str() {
                "csv" => CopyFormat::Csv,
                "text" => CopyFormat::Text,
                other => {
                    return Err(SqlError::not_supported(format!("COPY format {other} is not supported")).at(position));
                }
            };
        } else if self.accept(&["HEADER"]) {
            options.header = !self.accept(&["FALSE"]) && !self.accept(&["OFF"]);
            let _ = self.accept(&["TRUE"]) || self.accept(&["ON"]);
        } else if self.accept(&["DELIMITER"]) {
            self.accept(&["AS"]);
            options.delimiter = Some(self.one_character()?);
        } else if self.accept(&["NULL"]) {
            self.accept(&["AS"]);
            options.null = Some(self.string()?);
        } else if self.accept(&["QUOTE"]) {
            self.accept(&["AS"]);
            options.quote = Some(self.one_character()?);
        } else if self.accept(&["ESCAPE"]) {
            self.accept(&["AS"]);
            options.escape = Some(self.one_character()?);
        } else if self.accept(&["ENCODING"]) {
            let encoding = self.option_word()?;
            if !["utf8", "utf-8", "unicode"].contains(&encoding.as_str()) {
                return Err(SqlError::not_supported(format!("COPY encoding {encoding} is not supported")).at(position));
            }
        } else {
            return Err(self.refuse(&format!("COPY option {}", self.parser.peek_token_ref())));
        }
        Ok(())
    }

    fn option_word(&mut self) -> Result<String, SqlError> {
        match &self.parser.peek_token_ref().token {
            Token::SingleQuotedString(_) => Ok(self.string()?.to_lowercase()),
            _ => Ok(self.ident()?.to_lowercase()),
        }
    }

    fn one_character(&mut self) -> Result<char, SqlError> {
        let position = self.position();
        let text = self.string()?;
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(character), None) if character.is_ascii() => Ok(character),
            _ => {
                Err(SqlError::not_supported("COPY delimiter, quote and escape must be one one-byte character")
                    .at(position))
            }
        }
    }

    fn ident_or_all(&mut self) -> Result<Option<String>, SqlError> {
        if self.accept(&["ALL"]) { Ok(None) } else { self.ident().map(Some) }
    }

    fn discard(&mut self) -> Result<Statement, SqlError> {
        let is_all = self.accept(&["ALL"]);
        if !is_all && !["PLANS", "SEQUENCES", "TEMP", "TEMPORARY"].iter().any(|word| self.accept(&[word])) {
            return Err(self.unexpected("ALL, PLANS, SEQUENCES or TEMP"));
        }
        Ok(Statement::Discard { is_all })
    }

    fn prepare(&mut self) -> Result<Statement, SqlError> {
        let name = self.ident()?;
        let mut types = Vec::new();
        if self.accept_token(&Token::LParen) {
            loop {
                let result = self.parser.parse_data_type();
                types.push(sql_type_of_ast(&self.parsed(result)?)?);
                if !self.accept_token(&Token::Comma) {
                    break;
                }
            }
            self.expect_token(&Token::RParen)?;
        }
        self.expect(&["AS"])?;
        let statement = Box::new(self.any_statement()?);
        match statement.as_ref() {
            Statement::Query(_) | Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
                Ok(Statement::Prepare { name, types, statement })
            }
            _ => Err(SqlError::syntax("only SELECT, VALUES, INSERT, UPDATE and DELETE can be prepared")),
        }
    }

    fn execute(&mut self) -> Result<Statement, SqlError> {
        let name = self.ident()?;
        let mut parameters = Vec::new();
        if self.accept_token(&Token::LParen) && !self.accept_token(&Token::RParen) {
            loop {
                parameters.push(self.expression()?);
                if !self.accept_token(&Token::Comma) {
                    break;
                }
            }
            self.expect_token(&Token::RParen)?;
        }
        Ok(Statement::Execute { name, parameters })
    }
}

struct CopyOptions {
    format: CopyFormat,
    header: bool,
    delimiter: Option<char>,
    null: Option<String>,
    quote: Option<char>,
    escape: Option<char>,
}

impl Default for CopyOptions {
    fn default() -> CopyOptions {
        CopyOptions { format: CopyFormat::Text, header: false, delimiter: None, null: None, quote: None, escape: None }
    }
}

impl CopyOptions {
    fn build(self, target: CopyTarget) -> Result<Copy, SqlError> {
        let is_csv = self.format == CopyFormat::Csv;
        if !is_csv && (self.quote.is_some() || self.escape.is_some()) {
            return Err(SqlError::not_supported("COPY QUOTE and ESCAPE are available only in CSV mode"));
        }
        let quote = self.quote.unwrap_or('"');
        Ok(Copy {
            target,
            format: self.format,
            header: self.header,
            delimiter: self.delimiter.unwrap_or(if is_csv { ',' } else { '\t' }),
            null: self.null.unwrap_or_else(|| if is_csv { String::new() } else { "\\N".to_owned() }),
            quote,
            escape: self.escape.unwrap_or(quote),
        })
    }
}

/// `SELECT columns FROM name`
fn select_from(name: ObjectName, columns: Vec<String>) -> Query {
    let item = |column: String| SelectItem::UnnamedExpr(Expr::Identifier(ast::Ident::with_quote('"', column)));
    let projection = if columns.is_empty() {
        vec![SelectItem::Wildcard(ast::WildcardAdditionalOptions::default())]
    } else {
        columns.into_iter().map(item).collect()
    };
    let mut query = super::parse_query("SELECT 1 FROM t").expect("a query");
    if let SetExpr::Select(select) = query.body.as_mut() {
        let select: &mut Select = select;
        select.projection = projection;
        select.group_by = GroupByExpr::Expressions(vec![], vec![]);
        if let Some(TableFactor::Table { name: from, .. }) = select.from.first_mut().map(|from| &mut from.relation) {
            *from = name;
        }
    }
    *query
}

fn modes_of(modes: &[TransactionMode]) -> TransactionModes {
    let mut found = TransactionModes::default();
    for mode in modes {
        match mode {
            TransactionMode::AccessMode(mode) => found.read_only = Some(*mode == TransactionAccessMode::ReadOnly),
            TransactionMode::IsolationLevel(level) => {
                found.serializable = Some(*level == TransactionIsolationLevel::Serializable);
            }
        }
    }
    found
}
