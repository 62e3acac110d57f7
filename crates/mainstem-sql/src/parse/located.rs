//! The place of a name that an error is about.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::reader::Place;
use crate::dialect::MainstemDialect;
use crate::error::{SqlError, sqlstate};

/// The error with the place of the name that it says is unknown or ambiguous, if the text has that name once; planning knows names,
/// but no places.
#[must_use]
pub fn located(sql: &str, error: SqlError) -> SqlError {
    let is_of_name = [
        sqlstate::UNDEFINED_COLUMN,
        sqlstate::AMBIGUOUS_COLUMN,
        sqlstate::UNDEFINED_TABLE,
        sqlstate::UNDEFINED_FUNCTION,
    ]
    .contains(&error.sqlstate);
    if error.position.is_some() || !is_of_name {
        return error;
    }
    match name_in(&error.message).and_then(|name| place_of(sql, name)) {
        Some(place) => error.at(place),
        None => error,
    }
}

/// What stands in quotes first.
fn name_in(message: &str) -> Option<&str> {
    let start = message.find(['"', '\''])?;
    let rest = &message[start + 1..];
    rest.split(message[start..].chars().next()?).next().filter(|name| !name.is_empty())
}

fn place_of(sql: &str, name: &str) -> Option<usize> {
    let place = Place::new(sql);
    let tokens = Tokenizer::new(&MainstemDialect, sql).tokenize_with_location().ok()?;
    let tokens: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let mut found = places(&tokens, &name.split('.').collect::<Vec<_>>());
    if found.is_empty() {
        found = places(&tokens, name.rsplit('.').next().as_slice());
    }
    match found.as_slice() {
        [only] => Some(place.character(tokens[*only].span.start)),
        _ => None,
    }
}

/// Where the words stand, with periods between them.
fn places(tokens: &[TokenWithSpan], words: &[&str]) -> Vec<usize> {
    let is = |token: &Token, word: &str| match token {
        Token::Word(read) if read.quote_style.is_some() => read.value == word,
        Token::Word(read) => read.value.to_lowercase() == word,
        _ => false,
    };
    let starts_at = |start: usize| {
        words.iter().enumerate().all(|(at, word)| {
            let token = tokens.get(start + 2 * at).is_some_and(|token| is(&token.token, word));
            token && (at == 0 || tokens[start + 2 * at - 1].token == Token::Period)
        })
    };
    (0..tokens.len()).filter(|start| starts_at(*start)).collect()
}
