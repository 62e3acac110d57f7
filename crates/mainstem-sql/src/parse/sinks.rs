//! CREATE and DROP of sinks and indexes.

use datafusion::sql::sqlparser::tokenizer::Token;
use mainstem_catalog::SinkFormat;

use super::reader::Reader;
use crate::error::{SqlError, sqlstate};
use crate::statement::{CreateIndex, CreateSink, DropAttached, SinkInput, Statement};

/// What WITH and ENCODE JSON say about a sink.
#[derive(Default)]
struct SinkOptions {
    topic: Option<String>,
    partitions: Option<i32>,
    primary_key: Option<Vec<String>>,
    force_append_only: bool,
    without_snapshot: bool,
    with_schema: bool,
}

impl Reader<'_> {
    /// After CREATE SINK.
    pub(super) fn create_sink(&mut self) -> Result<Statement, SqlError> {
        let if_not_exists = self.accept(&["IF", "NOT", "EXISTS"]);
        let name = self.name()?;
        if self.sees(&["INTO"]) {
            return Err(self.refuse("CREATE SINK INTO a table").with_hint(
                "Read the materialized view itself, or write to a topic: CREATE SINK name FROM view WITH (topic = 'name') ...",
            ));
        }
        let input = if self.accept(&["FROM"]) {
            SinkInput::Relation(self.name()?)
        } else if self.accept(&["AS"]) {
            SinkInput::Query(self.query_before_with()?)
        } else {
            return Err(self.unexpected("FROM or AS"));
        };
        let mut options = SinkOptions::default();
        for (option, value, position) in self.with_options()? {
            sink_option(&mut options, &option, &value).map_err(|error| error.at(position))?;
        }
        let format = self.sink_format()?;
        for (option, value, position) in self.options_in_parentheses()? {
            sink_option(&mut options, &option, &value).map_err(|error| error.at(position))?;
        }
        let topic = options.topic.ok_or_else(|| {
            SqlError::new(sqlstate::INVALID_PARAMETER, "a sink needs a topic").with_hint("Add WITH (topic = 'name').")
        })?;
        let sql = self.text.clone();
        Ok(Statement::CreateSink(CreateSink {
            name,
            if_not_exists,
            input,
            topic,
            partitions: options.partitions,
            primary_key: options.primary_key,
            force_append_only: options.force_append_only,
            snapshot: !options.without_snapshot,
            with_schema: options.with_schema,
            format,
            sql,
        }))
    }

    fn sink_format(&mut self) -> Result<SinkFormat, SqlError> {
        let formats =
            [("PLAIN", SinkFormat::Plain), ("UPSERT", SinkFormat::Upsert), ("DEBEZIUM", SinkFormat::Debezium)];
        if !self.accept(&["FORMAT"]) {
            return Err(self.unexpected("FORMAT PLAIN, UPSERT or DEBEZIUM ENCODE JSON"));
        }
        let Some((word, format)) = formats.into_iter().find(|(word, _)| self.sees(&[word])) else {
            return Err(self.refuse(&format!("FORMAT {} of a sink", self.parser.peek_token_ref())));
        };
        self.accept(&[word]);
        self.expect(&["ENCODE"])?;
        if !self.accept(&["JSON"]) {
            return Err(self.refuse(&format!("ENCODE {} of a sink", self.parser.peek_token_ref())));
        }
        Ok(format)
    }

    /// After CREATE INDEX or CREATE UNIQUE INDEX, which is refused.
    pub(super) fn create_index(&mut self) -> Result<Statement, SqlError> {
        if self.sees(&["CONCURRENTLY"]) {
            self.accept(&["CONCURRENTLY"]);
        }
        let if_not_exists = self.accept(&["IF", "NOT", "EXISTS"]);
        let name = self.name()?;
        self.expect(&["ON"])?;
        let of = self.name()?;
        if self.accept(&["USING"]) && !self.accept(&["BTREE"]) {
            return Err(self.refuse(&format!("an index USING {}", self.parser.peek_token_ref())));
        }
        self.expect_token(&Token::LParen)?;
        let mut columns = Vec::new();
        loop {
            columns.push(self.ident()?);
            self.accept(&["ASC"]);
            if self.sees(&["DESC"]) {
                return Err(self.refuse("DESC in an index"));
            }
            if !self.sees_token(&Token::Comma) && !self.sees_token(&Token::RParen) {
                return Err(self.refuse("an expression in an index").with_hint("An index has columns only."));
            }
            if !self.accept_token(&Token::Comma) {
                break;
            }
        }
        self.expect_token(&Token::RParen)?;
        let include = if self.accept(&["INCLUDE"]) { self.optional_idents()? } else { Vec::new() };
        if self.sees(&["DISTRIBUTED"]) {
            return Err(self.refuse("DISTRIBUTED BY of an index"));
        }
        if self.sees(&["WHERE"]) {
            return Err(self.refuse("WHERE of an index"));
        }
        let sql = self.text.clone();
        Ok(Statement::CreateIndex(CreateIndex { name, if_not_exists, of, columns, include, sql }))
    }

    /// After DROP SINK or DROP INDEX.
    pub(super) fn drop_attached(&mut self) -> Result<DropAttached, SqlError> {
        let if_exists = self.accept(&["IF", "EXISTS"]);
        let mut names = vec![self.name()?];
        while self.accept_token(&Token::Comma) {
            names.push(self.name()?);
        }
        if !self.accept(&["CASCADE"]) {
            self.accept(&["RESTRICT"]);
        }
        Ok(DropAttached { names, if_exists })
    }
}

fn sink_option(options: &mut SinkOptions, name: &str, value: &str) -> Result<(), SqlError> {
    match name {
        "topic" => options.topic = Some(value.to_owned()),
        "connector" if value.eq_ignore_ascii_case("kafka") => {}
        "connector" => {
            return Err(SqlError::not_supported(format!("connector '{value}' is not supported"))
                .with_hint("A sink writes to a topic of this server: WITH (topic = 'name')."));
        }
        "partitions" => {
            let count = value.parse().ok().filter(|count| (1..=10_000).contains(count));
            options.partitions = Some(count.ok_or_else(|| invalid(name, value, "a number from 1 to 10000"))?);
        }
        "primary_key" => {
            let columns = value.split(',').map(|column| column.trim().to_owned());
            options.primary_key = Some(columns.filter(|column| !column.is_empty()).collect());
        }
        "force_append_only" => options.force_append_only = boolean(name, value)?,
        "snapshot" => options.without_snapshot = !boolean(name, value)?,
        "schemas.enable" => options.with_schema = boolean(name, value)?,
        "properties.bootstrap.server" | "kafka.brokers" => {
            return Err(SqlError::not_supported(format!(
                "{name} (a Kafka cluster outside this server) is not supported"
            ))
            .with_hint("A sink writes to a topic of this server; leave the option out."));
        }
        _ => return Err(SqlError::not_supported(format!("sink option {name} = '{value}' is not supported"))),
    }
    Ok(())
}

fn boolean(name: &str, value: &str) -> Result<bool, SqlError> {
    match value.to_lowercase().as_str() {
        "true" | "on" | "t" => Ok(true),
        "false" | "off" | "f" => Ok(false),
        _ => Err(invalid(name, value, "'true' or 'false'")),
    }
}

fn invalid(name: &str, value: &str, wanted: &str) -> SqlError {
    SqlError::new(sqlstate::INVALID_PARAMETER, format!("sink option {name} is '{value}'; it must be {wanted}"))
}
