//! CREATE and DROP.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Value};
use datafusion::sql::sqlparser::tokenizer::Token;
use mainstem_catalog::{IncludeKind, SqlType};

use super::fold;
use super::reader::Reader;
use super::types::{interval_text_us, interval_us, sql_type_of_ast};
use crate::error::{SqlError, sqlstate};
use crate::statement::{
    ColumnDefinition, CreateMaterializedView, CreateSource, CreateTable, CreateView, DropRelations, IncludeClause,
    QualifiedName, RelationNoun, Statement, WatermarkClause,
};

/// What stands between the parentheses of CREATE SOURCE and CREATE TABLE.
#[derive(Default)]
struct Elements {
    columns: Vec<ColumnDefinition>,
    primary_key: Vec<String>,
    watermark: Option<WatermarkClause>,
    /// Where LATE INTO and the like stand.
    watermark_tail: Option<usize>,
}

/// What was read of WATERMARK FOR: the column's type is checked when all columns are known.
struct Watermarking {
    column: String,
    expression: Expr,
    position: usize,
    tail: WatermarkTail,
}

/// What stands behind the expression of a watermark, and where the first of it does.
#[derive(Default)]
struct WatermarkTail {
    position: Option<usize>,
    lateness_us: i64,
    idle_timeout_us: Option<i64>,
    late_into: Option<QualifiedName>,
}

impl Reader<'_> {
    /// After CREATE.
    pub(super) fn create(&mut self) -> Result<Statement, SqlError> {
        let or_replace = self.accept(&["OR", "REPLACE"]);
        if or_replace {
            if !self.sees(&["MATERIALIZED", "VIEW"]) && !self.sees(&["VIEW"]) {
                let what = format!("CREATE OR REPLACE {}", self.parser.peek_token_ref()).to_uppercase();
                return Err(self.refuse(&what).with_hint("Views can be replaced; for others use DROP and CREATE."));
            }
            // SHOW CREATE is to give what makes the view, also beside the one that it replaced.
            self.text = format!("CREATE {}", self.rest_of_text());
        }
        for temporary in ["TEMP", "TEMPORARY", "UNLOGGED"] {
            if self.sees(&[temporary]) {
                return Err(self.refuse(&format!("CREATE {temporary}")));
            }
        }
        if self.accept(&["SOURCE"]) {
            self.create_source().map(Statement::CreateSource)
        } else if self.accept(&["TABLE"]) {
            self.create_table().map(Statement::CreateTable)
        } else if self.accept(&["MATERIALIZED", "VIEW"]) {
            self.create_materialized_view(or_replace).map(Statement::CreateMaterializedView)
        } else if self.accept(&["VIEW"]) {
            self.create_view(or_replace).map(Statement::CreateView)
        } else if self.accept(&["SINK"]) {
            self.create_sink()
        } else if self.accept(&["INDEX"]) {
            self.create_index()
        } else {
            Err(self.refuse_kind("CREATE"))
        }
    }

    /// `CREATE SINK is not supported`; no object at all is a syntax error.
    pub(super) fn refuse_kind(&self, verb: &str) -> SqlError {
        let kinds = [
            "UNIQUE",
            "SUBSCRIPTION",
            "USER",
            "ROLE",
            "FUNCTION",
            "AGGREGATE",
            "CONNECTION",
            "SECRET",
            "SCHEMA",
            "DATABASE",
            "TYPE",
            "SEQUENCE",
            "EXTENSION",
            "TRIGGER",
            "PROCEDURE",
            "POLICY",
            "DOMAIN",
            "EXTERNAL",
            "CONTINUOUS",
            "FOREIGN",
            "RULE",
            "SERVER",
            "OPERATOR",
            "COLLATION",
            "PUBLICATION",
            "TABLESPACE",
        ];
        match kinds.into_iter().find(|kind| self.sees(&[kind])) {
            Some("UNIQUE") => self.refuse(&format!("{verb} INDEX")),
            Some(kind) => self.refuse(&format!("{verb} {kind}")),
            None => self.unexpected("SOURCE, TABLE, MATERIALIZED VIEW, VIEW, SINK or INDEX"),
        }
    }

    fn create_source(&mut self) -> Result<CreateSource, SqlError> {
        let if_not_exists = self.accept(&["IF", "NOT", "EXISTS"]);
        let name = self.name()?;
        let elements = if self.sees_token(&Token::LParen) { self.elements()? } else { Elements::default() };
        if !elements.primary_key.is_empty() {
            return Err(SqlError::not_supported("PRIMARY KEY of a source is not supported")
                .with_hint("A source has all records of its topic; a TABLE keeps the last per key."));
        }
        if let Some(column) = elements.columns.iter().find(|column| column.default.is_some()) {
            return Err(SqlError::not_supported(format!(
                "DEFAULT of source column \"{}\" is not supported",
                column.name
            )));
        }
        let mut includes = Vec::new();
        while self.accept(&["INCLUDE"]) {
            includes.push(self.include()?);
        }
        let topic = self.source_options()?;
        self.format_clause()?;
        self.end()?;
        if elements.columns.is_empty() {
            return Err(SqlError::new(sqlstate::INVALID_TABLE, "a source needs at least one column"));
        }
        check_names(elements.columns.iter().map(|c| &c.name).chain(includes.iter().map(|i| &i.name)))?;
        let sql = self.text.clone();
        let Elements { columns, watermark, .. } = elements;
        Ok(CreateSource { name, if_not_exists, columns, watermark, includes, topic, sql })
    }

    fn include(&mut self) -> Result<IncludeClause, SqlError> {
        let kinds = [
            ("KEY", IncludeKind::Key, "_rw_key"),
            ("PARTITION", IncludeKind::Partition, "_rw_kafka_partition"),
            ("OFFSET", IncludeKind::Offset, "_rw_kafka_offset"),
            ("TIMESTAMP", IncludeKind::Timestamp, "_rw_kafka_timestamp"),
        ];
        let Some((word, kind, default)) = kinds.into_iter().find(|(word, ..)| self.sees(&[word])) else {
            if self.sees(&["HEADER"]) || self.sees(&["PAYLOAD"]) {
                return Err(self.refuse(&format!("INCLUDE {}", self.parser.peek_token_ref())));
            }
            return Err(self.unexpected("KEY, PARTITION, OFFSET or TIMESTAMP"));
        };
        self.accept(&[word]);
        let name = if self.accept(&["AS"]) { self.ident()? } else { default.to_owned() };
        Ok(IncludeClause { kind, name })
    }

    /// `WITH (...)` of a source; the topic.
    fn source_options(&mut self) -> Result<String, SqlError> {
        let mut topic = None;
        for (name, value, position) in self.with_options()? {
            let refused = |what: String| Err(SqlError::not_supported(format!("{what} is not supported")).at(position));
            match name.as_str() {
                "topic" => topic = Some(value),
                "connector" if value.eq_ignore_ascii_case("kafka") => {}
                "connector" => {
                    return refused(format!("connector '{value}'")).map_err(|error: SqlError| {
                        error.with_hint("A source reads a topic of this server: WITH (topic = 'name').")
                    });
                }
                "properties.bootstrap.server" | "kafka.brokers" => {
                    return refused(format!("{name} (a Kafka cluster outside this server)"));
                }
                "scan.startup.mode" if value == "earliest" => {}
                _ => return refused(format!("source option {name} = '{value}'")),
            }
        }
        topic.ok_or_else(|| {
            SqlError::new(sqlstate::INVALID_PARAMETER, "a source needs a topic").with_hint("Add WITH (topic = 'name').")
        })
    }

    /// `[WITH] (name = value, ...)`: names may have points; values are strings, numbers or words.
    pub(super) fn with_options(&mut self) -> Result<Vec<(String, String, usize)>, SqlError> {
        if !self.accept(&["WITH"]) {
            return Ok(Vec::new());
        }
        if !self.sees_token(&Token::LParen) {
            return Err(self.unexpected("("));
        }
        self.options_in_parentheses()
    }

    /// `(name = value, ...)`, or nothing.
    pub(super) fn options_in_parentheses(&mut self) -> Result<Vec<(String, String, usize)>, SqlError> {
        let mut options = Vec::new();
        if !self.accept_token(&Token::LParen) {
            return Ok(options);
        }
        loop {
            let position = self.position();
            let name = self.name_with_points()?;
            self.expect_token(&Token::Eq)?;
            let value = self.option_value()?;
            options.push((name, value, position));
            if !self.accept_token(&Token::Comma) {
                break;
            }
        }
        self.expect_token(&Token::RParen)?;
        Ok(options)
    }

    pub(super) fn name_with_points(&mut self) -> Result<String, SqlError> {
        let mut name = self.ident()?;
        while self.accept_token(&Token::Period) {
            name.push('.');
            name.push_str(&self.ident()?);
        }
        Ok(name)
    }

    fn option_value(&mut self) -> Result<String, SqlError> {
        match self.parser.peek_token_ref().token.clone() {
            Token::SingleQuotedString(text) | Token::Number(text, _) => {
                self.parser.advance_token();
                Ok(text)
            }
            _ => self.ident(),
        }
    }

    fn format_clause(&mut self) -> Result<(), SqlError> {
        if !self.accept(&["FORMAT"]) {
            return Err(self.unexpected("FORMAT PLAIN ENCODE JSON"));
        }
        if !self.accept(&["PLAIN"]) {
            return Err(self.refuse(&format!("FORMAT {}", self.parser.peek_token_ref())));
        }
        self.expect(&["ENCODE"])?;
        if !self.accept(&["JSON"]) {
            return Err(self.refuse(&format!("ENCODE {}", self.parser.peek_token_ref())));
        }
        if self.sees_token(&Token::LParen) {
            return Err(self.refuse("an option of ENCODE JSON"));
        }
        Ok(())
    }

    /// The column of ALTER ... ADD COLUMN.
    pub(super) fn added_column(&mut self) -> Result<ColumnDefinition, SqlError> {
        let position = self.position();
        let mut elements = Elements::default();
        self.column(&mut elements)?;
        match elements.columns.pop() {
            Some(column) if elements.primary_key.is_empty() => Ok(column),
            _ => Err(SqlError::not_supported("PRIMARY KEY of a column that is added is not supported").at(position)),
        }
    }

    fn create_table(&mut self) -> Result<CreateTable, SqlError> {
        let if_not_exists = self.accept(&["IF", "NOT", "EXISTS"]);
        let name = self.name()?;
        if self.sees(&["AS"]) {
            return Err(self.refuse("CREATE TABLE AS").with_hint("Use CREATE TABLE and INSERT INTO ... SELECT."));
        }
        let mut elements = self.elements()?;
        if let Some(position) = elements.watermark_tail {
            let message = "LATE INTO, IDLE TIMEOUT and ALLOWED LATENESS of a table are not supported";
            return Err(SqlError::not_supported(message)
                .at(position)
                .with_hint("Rows of a table change and are never late. Declare them on a source."));
        }
        let refused = [
            ("APPEND", "APPEND ONLY of a table"),
            ("ON", "ON CONFLICT of a table"),
            ("WITH", "WITH (...) of a table"),
            ("INCLUDE", "INCLUDE of a table"),
            ("FORMAT", "FORMAT of a table"),
            ("FROM", "CREATE TABLE FROM a source"),
            ("AS", "CREATE TABLE AS"),
            ("PARTITION", "PARTITION BY of a table"),
            ("INHERITS", "INHERITS"),
        ];
        if let Some((_, what)) = refused.into_iter().find(|(word, _)| self.sees(&[word])) {
            return Err(self.refuse(what));
        }
        self.end()?;
        check_names(elements.columns.iter().map(|column| &column.name))?;
        let mut primary_key = Vec::new();
        for key in &elements.primary_key {
            let index = elements.columns.iter().position(|column| column.name == *key).ok_or_else(|| {
                SqlError::new(sqlstate::UNDEFINED_COLUMN, format!("column \"{key}\" named in key does not exist"))
            })?;
            if primary_key.contains(&index) {
                let message = format!("column \"{key}\" appears twice in primary key constraint");
                return Err(SqlError::new(sqlstate::DUPLICATE_COLUMN, message));
            }
            primary_key.push(index);
            elements.columns[index].not_null = true;
        }
        let Elements { columns, watermark, .. } = elements;
        Ok(CreateTable { name, if_not_exists, columns, primary_key, watermark, sql: self.text.clone() })
    }

    fn elements(&mut self) -> Result<Elements, SqlError> {
        let mut elements = Elements::default();
        let mut watermark = None;
        self.expect_token(&Token::LParen)?;
        if !self.accept_token(&Token::RParen) {
            loop {
                self.element(&mut elements, &mut watermark)?;
                if !self.accept_token(&Token::Comma) {
                    break;
                }
            }
            self.expect_token(&Token::RParen)?;
        }
        if let Some(Watermarking { column, expression, position, tail }) = watermark {
            elements.watermark_tail = tail.position;
            elements.watermark =
                Some(check_watermark(&elements.columns, column, &expression, tail).map_err(|e| e.at(position))?);
        }
        Ok(elements)
    }

    fn element(&mut self, elements: &mut Elements, watermark: &mut Option<Watermarking>) -> Result<(), SqlError> {
        if self.accept(&["WATERMARK", "FOR"]) {
            let position = self.position();
            if watermark.is_some() {
                return Err(SqlError::new(sqlstate::INVALID_TABLE, "more than one WATERMARK").at(position));
            }
            let column = self.ident()?;
            self.expect(&["AS"])?;
            let expression = self.expression()?;
            let tail = self.watermark_tail()?;
            *watermark = Some(Watermarking { column, expression, position, tail });
            return Ok(());
        }
        if self.accept(&["CONSTRAINT"]) {
            self.ident()?;
        }
        if self.accept(&["PRIMARY", "KEY"]) {
            self.set_primary_key(elements, |reader| reader.optional_idents())
        } else if self.sees(&["UNIQUE"]) || self.sees(&["FOREIGN", "KEY"]) || self.sees(&["CHECK"]) {
            Err(self.refuse(&format!("{} of a table", self.parser.peek_token_ref()).to_uppercase()))
        } else {
            self.column(elements)
        }
    }

    /// LATE INTO, IDLE TIMEOUT and ALLOWED LATENESS, each at most once, in any order.
    fn watermark_tail(&mut self) -> Result<WatermarkTail, SqlError> {
        let mut tail = WatermarkTail::default();
        loop {
            let position = self.position();
            let twice = if self.accept(&["LATE", "INTO"]) {
                tail.late_into.replace(self.name()?).is_some()
            } else if self.accept(&["IDLE", "TIMEOUT"]) {
                tail.idle_timeout_us.replace(self.duration("IDLE TIMEOUT")?).is_some()
            } else if self.accept(&["ALLOWED", "LATENESS"]) {
                std::mem::replace(&mut tail.lateness_us, self.duration("ALLOWED LATENESS")?) != 0
            } else if self.sees(&["WITH"]) {
                return Err(self.refuse("WITH TTL"));
            } else {
                return Ok(tail);
            };
            if twice {
                let error = SqlError::new(sqlstate::INVALID_TABLE, "a clause of WATERMARK is given more than once");
                return Err(error.at(position));
            }
            tail.position.get_or_insert(position);
        }
    }

    /// `'10 seconds'` or `INTERVAL '10 seconds'`, more than nothing, in microseconds.
    pub(super) fn duration(&mut self, of: &str) -> Result<i64, SqlError> {
        let position = self.position();
        let expression = self.expression()?;
        let us = match &expression {
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) => interval_text_us(text),
                _ => interval_us(&expression),
            },
            _ => interval_us(&expression),
        };
        match us.map_err(|error| error.at(position))? {
            us if us > 0 => Ok(us),
            _ => {
                let message = format!("{of} must be more than nothing");
                Err(SqlError::new(sqlstate::INVALID_PARAMETER, message).at(position))
            }
        }
    }

    fn set_primary_key(
        &mut self,
        elements: &mut Elements,
        read: impl FnOnce(&mut Self) -> Result<Vec<String>, SqlError>,
    ) -> Result<(), SqlError> {
        if !elements.primary_key.is_empty() {
            let error = SqlError::new(sqlstate::INVALID_TABLE, "multiple primary keys are not allowed");
            return Err(error.at(self.position()));
        }
        elements.primary_key = read(self)?;
        Ok(())
    }

    fn column(&mut self, elements: &mut Elements) -> Result<(), SqlError> {
        let name = self.ident()?;
        let sql_type = self.sql_type()?;
        let mut column = ColumnDefinition { name, sql_type, not_null: false, default: None };
        loop {
            if self.accept(&["NOT", "NULL"]) {
                column.not_null = true;
            } else if self.accept(&["NULL"]) {
                column.not_null = false;
            } else if self.accept(&["PRIMARY", "KEY"]) {
                let name = column.name.clone();
                self.set_primary_key(elements, |_| Ok(vec![name]))?;
            } else if self.accept(&["DEFAULT"]) {
                column.default = Some(self.expression()?.to_string());
            } else if self.accept(&["CONSTRAINT"]) {
                self.ident()?;
            } else {
                break;
            }
        }
        let refused = ["UNIQUE", "CHECK", "REFERENCES", "GENERATED", "COLLATE", "AS"];
        if let Some(word) = refused.into_iter().find(|word| self.sees(&[word])) {
            let what = if word == "AS" { "AS (a generated column)" } else { word };
            return Err(self.refuse(&format!("{what} of a column")));
        }
        elements.columns.push(column);
        Ok(())
    }

    /// A type name, with RisingWave's `struct<name type, ...>`.
    fn sql_type(&mut self) -> Result<SqlType, SqlError> {
        let position = self.position();
        let mut owed = 0;
        let sql_type = self.nested_type(&mut owed, 0)?;
        if owed != 0 {
            return Err(SqlError::syntax("syntax error at or near \">>\"").at(position));
        }
        Ok(sql_type)
    }

    /// `owed` counts closing brackets that were read ahead, as one token `>>`.
    fn nested_type(&mut self, owed: &mut usize, depth: usize) -> Result<SqlType, SqlError> {
        if depth > 100 {
            return Err(SqlError::too_complex());
        }
        let position = self.position();
        if !self.sees(&["STRUCT"]) || self.parser.peek_nth_token_ref(1).token != Token::Lt {
            let result = self.parser.parse_data_type();
            return sql_type_of_ast(&self.parsed(result)?).map_err(|error| error.at(position));
        }
        self.accept(&["STRUCT"]);
        self.expect_token(&Token::Lt)?;
        let mut fields = Vec::new();
        loop {
            let name = self.ident()?;
            fields.push((name, self.nested_type(owed, depth + 1)?));
            if *owed > 0 || !self.accept_token(&Token::Comma) {
                break;
            }
        }
        if *owed > 0 {
            *owed -= 1;
        } else if self.accept_token(&Token::ShiftRight) {
            *owed += 1;
        } else {
            self.expect_token(&Token::Gt)?;
        }
        check_names(fields.iter().map(|(name, _)| name))?;
        let mut sql_type = SqlType::Struct(fields);
        while *owed == 0 && self.accept_token(&Token::LBracket) {
            self.expect_token(&Token::RBracket)?;
            sql_type = SqlType::List(Box::new(sql_type));
        }
        Ok(sql_type)
    }

    fn if_not_exists(&mut self, or_replace: bool) -> Result<bool, SqlError> {
        let position = self.position();
        let if_not_exists = self.accept(&["IF", "NOT", "EXISTS"]);
        if if_not_exists && or_replace {
            return Err(SqlError::syntax("CREATE OR REPLACE and IF NOT EXISTS exclude each other").at(position));
        }
        Ok(if_not_exists)
    }

    fn create_materialized_view(&mut self, or_replace: bool) -> Result<CreateMaterializedView, SqlError> {
        let if_not_exists = self.if_not_exists(or_replace)?;
        let name = self.name()?;
        let columns = self.optional_idents()?;
        if let Some((option, _, position)) = self.with_options()?.into_iter().next() {
            return Err(SqlError::not_supported(format!("view option {option} is not supported")).at(position));
        }
        self.expect(&["AS"])?;
        let query = self.query()?;
        if self.sees(&["WITH"]) {
            return Err(self.refuse("WITH [NO] DATA"));
        }
        self.end()?;
        let (emit_on_window_close, sql) = (self.emit_on_window_close, self.text.clone());
        let early_us = self.early.take().map(|mut early| {
            let us = early.duration("EARLY EVERY")?;
            early.end().map(|()| us)
        });
        let early_us = early_us.transpose()?;
        Ok(CreateMaterializedView {
            name,
            or_replace,
            if_not_exists,
            columns,
            query,
            emit_on_window_close,
            early_us,
            sql,
        })
    }

    fn create_view(&mut self, or_replace: bool) -> Result<CreateView, SqlError> {
        let if_not_exists = self.if_not_exists(or_replace)?;
        let name = self.name()?;
        let columns = self.optional_idents()?;
        if self.sees(&["WITH"]) {
            return Err(self.refuse("WITH (...) of a view"));
        }
        self.expect(&["AS"])?;
        let query = self.query()?;
        self.end()?;
        if self.emit_on_window_close {
            return Err(SqlError::not_supported(
                "EMIT ON WINDOW CLOSE of a view that is not materialized is not supported",
            ));
        }
        Ok(CreateView { name, or_replace, if_not_exists, columns, query, sql: self.text.clone() })
    }

    /// After DROP.
    pub(super) fn drop(&mut self) -> Result<Statement, SqlError> {
        if self.accept(&["SINK"]) {
            return self.drop_attached().map(Statement::DropSinks);
        }
        if self.accept(&["INDEX"]) {
            return self.drop_attached().map(Statement::DropIndexes);
        }
        let kind = if self.accept(&["SOURCE"]) {
            RelationNoun::Source
        } else if self.accept(&["TABLE"]) {
            RelationNoun::Table
        } else if self.accept(&["MATERIALIZED", "VIEW"]) {
            RelationNoun::MaterializedView
        } else if self.accept(&["VIEW"]) {
            RelationNoun::View
        } else {
            return Err(self.refuse_kind("DROP"));
        };
        let if_exists = self.accept(&["IF", "EXISTS"]);
        let mut names = vec![self.name()?];
        while self.accept_token(&Token::Comma) {
            names.push(self.name()?);
        }
        let cascade = self.accept(&["CASCADE"]);
        if !cascade {
            self.accept(&["RESTRICT"]);
        }
        self.end()?;
        Ok(Statement::Drop(DropRelations { kind, names, if_exists, cascade }))
    }
}

fn check_names<'a>(names: impl Iterator<Item = &'a String>) -> Result<(), SqlError> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if !seen.insert(name) {
            let message = format!("column \"{name}\" specified more than once");
            return Err(SqlError::new(sqlstate::DUPLICATE_COLUMN, message));
        }
    }
    Ok(())
}

/// `column`, or `column - INTERVAL '..'`, over a timestamp.
fn check_watermark(
    columns: &[ColumnDefinition],
    column: String,
    expr: &Expr,
    tail: WatermarkTail,
) -> Result<WatermarkClause, SqlError> {
    let definition = columns.iter().find(|definition| definition.name == column).ok_or_else(|| {
        SqlError::new(sqlstate::UNDEFINED_COLUMN, format!("watermark column \"{column}\" does not exist"))
    })?;
    if !matches!(definition.sql_type, SqlType::Timestamp | SqlType::Timestamptz) {
        let message = format!("watermark column \"{column}\" is {}, not a timestamp", definition.sql_type);
        return Err(SqlError::new(sqlstate::TYPE_MISMATCH, message));
    }
    let is_column = |expr: &Expr| matches!(expr, Expr::Identifier(ident) if fold(ident) == column);
    let delay_us = match expr {
        expr if is_column(expr) => 0,
        Expr::BinaryOp { left, op: BinaryOperator::Minus, right } if is_column(left) => interval_us(right)?,
        _ => {
            let message = format!("a watermark on \"{column}\" must be {column} - INTERVAL '...'");
            return Err(SqlError::not_supported(message));
        }
    };
    if delay_us < 0 {
        let message = "the delay of a watermark must not be negative";
        return Err(SqlError::new(sqlstate::INVALID_PARAMETER, message));
    }
    let WatermarkTail { lateness_us, idle_timeout_us, late_into, .. } = tail;
    Ok(WatermarkClause { column, delay_us, lateness_us, idle_timeout_us, late_into })
}
