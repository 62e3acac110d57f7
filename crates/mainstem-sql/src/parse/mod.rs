//! SQL text to statements: RisingWave's dialect of PostgreSQL.
//!
//! sqlparser reads expressions and queries; what it does not know, or reads in another dialect's way, is read here from its
//! tokens: definitions, SHOW, SET, COPY. A string may hold several statements; semicolons part them before anything is read.

mod alter;
mod create;
mod cursors;
mod dml;
mod event_time_joins;
mod located;
mod nesting;
mod reader;
mod refused;
mod sinks;
#[cfg(test)]
mod tests;
mod types;
mod utility;

use datafusion::sql::sqlparser::ast::{Ident as AstIdent, ObjectName};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::dialect::MainstemDialect;
use crate::error::SqlError;
use crate::statement::{QualifiedName, Statement};
use reader::{Place, Reader};

pub use alter::{query_with_columns, query_with_name, quoted, text_with_column, text_with_name};
pub use located::located;
pub(crate) use nesting::{DEPTH_MAX, with_deep_stack};
pub use types::{interval_us, sql_type_of_ast};

/// All statements of a text, in order; none for an empty one.
///
/// The first error is returned for the whole text, as PostgreSQL does, with its place in the text. Statements that come
/// back are shallow: what is nested too deeply is `54001`.
pub fn parse(sql: &str) -> Result<Vec<Statement>, SqlError> {
    with_deep_stack(sql.len(), || {
        let place = Place::new(sql);
        let tokens = Tokenizer::new(&MainstemDialect, sql)
            .tokenize_with_location()
            .map_err(|error| SqlError::syntax(error.message.clone()).at(place.character(error.location)))?;
        nesting::check_tokens(&tokens)?;
        let read = |tokens| Reader::new(&place, event_time_joins::rewrite(&place, tokens)?).statement();
        split(tokens).into_iter().map(read).collect()
    })
}

/// One query; an error if the text is anything else. Used for the text of stored views.
pub fn parse_query(sql: &str) -> Result<Box<datafusion::sql::sqlparser::ast::Query>, SqlError> {
    let mut statements = parse(sql)?;
    match (statements.pop(), statements.is_empty()) {
        (Some(Statement::Query(query)), true) => Ok(query),
        _ => Err(SqlError::syntax("expected one query")),
    }
}

/// One expression: the text of a column's default.
pub fn parse_expression(sql: &str) -> Result<datafusion::sql::sqlparser::ast::Expr, SqlError> {
    with_deep_stack(sql.len(), || {
        let place = Place::new(sql);
        let tokens = Tokenizer::new(&MainstemDialect, sql)
            .tokenize_with_location()
            .map_err(|error| SqlError::syntax(error.message.clone()).at(place.character(error.location)))?;
        nesting::check_tokens(&tokens)?;
        let mut reader = Reader::new(&place, tokens);
        let expression = reader.expression()?;
        reader.end()?;
        Ok(expression)
    })
}

/// Tokens of each statement, without comments and empty statements.
fn split(tokens: Vec<TokenWithSpan>) -> Vec<Vec<TokenWithSpan>> {
    let mut statements = Vec::new();
    let mut current = Vec::new();
    for token in tokens {
        match token.token {
            Token::SemiColon => statements.push(std::mem::take(&mut current)),
            Token::Whitespace(_) | Token::EOF => {}
            _ => current.push(token),
        }
    }
    statements.push(current);
    statements.retain(|tokens| !tokens.is_empty());
    statements.into_iter().map(session_keys).collect()
}

/// `session(t, ts, gap, PARTITION BY k)` as sqlparser reads it: without the two words.
fn session_keys(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is_word = |token: &TokenWithSpan, text: &str| matches!(&token.token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text));
    let mut depth = 0_usize;
    // The depths inside the parentheses of each session() around the place.
    let mut inside = Vec::new();
    let mut place = 0;
    while place < tokens.len() {
        match tokens[place].token {
            Token::LParen => {
                depth += 1;
                if place > 0 && is_word(&tokens[place - 1], "session") {
                    inside.push(depth);
                }
            }
            Token::RParen => {
                if inside.last() == Some(&depth) {
                    inside.pop();
                }
                depth = depth.saturating_sub(1);
            }
            Token::Comma if inside.last() == Some(&depth) => {
                let words = tokens.get(place + 1..place + 3).unwrap_or_default();
                if let [first, second] = words
                    && is_word(first, "partition")
                    && is_word(second, "by")
                {
                    tokens.drain(place + 1..place + 3);
                }
            }
            _ => {}
        }
        place += 1;
    }
    tokens
}

/// A name as PostgreSQL reads it: in lower case unless it was quoted.
pub(crate) fn fold(ident: &AstIdent) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// `name`, `schema.name` or `database.schema.name`; the database is left out.
pub(crate) fn qualified_name(name: &ObjectName) -> Result<QualifiedName, SqlError> {
    let parts: Option<Vec<String>> = name.0.iter().map(|part| part.as_ident().map(fold)).collect();
    match parts.as_deref() {
        Some([name]) => Ok(QualifiedName { schema: None, name: name.clone() }),
        Some([schema, name] | [_, schema, name]) => {
            Ok(QualifiedName { schema: Some(schema.clone()), name: name.clone() })
        }
        _ => Err(SqlError::syntax(format!("{name} is not the name of a relation"))),
    }
}
