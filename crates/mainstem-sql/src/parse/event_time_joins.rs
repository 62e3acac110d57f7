//! `ASOF JOIN` and `FOR SYSTEM_TIME AS OF` as joins that sqlparser reads, with a mark at the head of their condition.
//!
//! `a LEFT ASOF JOIN b ON c` becomes `a LEFT JOIN b ON asof_match() AND c`; `MATCH_CONDITION (m)` becomes `asof_match(m)`. `JOIN v FOR
//! SYSTEM_TIME AS OF a.ts AS p ON c` becomes `JOIN v AS p ON system_time_as_of(a.ts) AND c`. The planner knows the marks
//! (`plan::versions`, `plan::asof`); the text of a stored view has them, and is read as it stands.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::reader::{Place, is_word};
use crate::error::SqlError;
use crate::functions::{ASOF_MATCH, SYSTEM_TIME_AS_OF};

/// Rewrites one statement's tokens, without whitespace.
pub(super) fn rewrite(place: &Place<'_>, mut tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, SqlError> {
    let mut at = 0;
    while at < tokens.len() {
        if sees(&tokens, at, &["ASOF", "JOIN"]) {
            asof(place, &mut tokens, at)?;
        } else if sees(&tokens, at, &["FOR", "SYSTEM_TIME", "AS", "OF"]) {
            as_of(place, &mut tokens, at)?;
        }
        at += 1;
    }
    Ok(tokens)
}

fn sees(tokens: &[TokenWithSpan], at: usize, words: &[&str]) -> bool {
    words.iter().enumerate().all(|(n, word)| tokens.get(at + n).is_some_and(|token| is_word(&token.token, word)))
}

/// `at` is the word ASOF.
fn asof(place: &Place<'_>, tokens: &mut Vec<TokenWithSpan>, at: usize) -> Result<(), SqlError> {
    let position = place.character(tokens[at].span.start);
    let before = |word: &str, back: usize| at >= back && sees(tokens, at - back, &[word]);
    for kind in ["RIGHT", "FULL", "CROSS", "NATURAL", "SEMI", "ANTI"] {
        if before(kind, 1) || (before("OUTER", 1) && before(kind, 2)) {
            let message = format!("{kind} ASOF JOIN is not supported");
            let hint = "ASOF JOIN and LEFT ASOF JOIN give each row of the left side at most one partner.";
            return Err(SqlError::not_supported(message).with_hint(hint).at(position));
        }
    }
    let mark = tokens.remove(at);
    let Some(constraint) = constraint(tokens, at + 1) else {
        return Err(SqlError::syntax("ASOF JOIN without ON").with_hint(ASOF_HINT).at(position));
    };
    let (mut condition, mut mark) = (Vec::new(), mark);
    if sees(tokens, constraint, &["MATCH_CONDITION"]) {
        let end = closing(tokens, constraint + 1).ok_or_else(|| {
            SqlError::syntax("MATCH_CONDITION takes a comparison in parentheses").with_hint(ASOF_HINT).at(position)
        })?;
        let removed: Vec<_> = tokens.drain(constraint..=end).collect();
        condition = removed[2..removed.len() - 1].to_vec();
        // It may end the statement, and with it its text.
        mark = removed[removed.len() - 1].clone();
    }
    let head = call(&mark, ASOF_MATCH, condition);
    if sees(tokens, constraint, &["ON"]) {
        tokens.splice(constraint + 1..constraint + 1, head.into_iter().chain([word(&mark, "AND")]));
    } else if sees(tokens, constraint, &["USING"]) {
        let message = "ASOF JOIN with USING is not supported";
        return Err(SqlError::not_supported(message).with_hint(ASOF_HINT).at(position));
    } else {
        tokens.splice(constraint..constraint, [word(&mark, "ON")].into_iter().chain(head));
    }
    Ok(())
}

const ASOF_HINT: &str = "Write a ASOF JOIN b ON a.key = b.key AND a.time >= b.time.";
const AS_OF_HINT: &str = "Write a JOIN v FOR SYSTEM_TIME AS OF a.time ON a.key = v.key.";

/// `at` is the word FOR.
fn as_of(place: &Place<'_>, tokens: &mut Vec<TokenWithSpan>, at: usize) -> Result<(), SqlError> {
    let mark = tokens[at].clone();
    let position = place.character(mark.span.start);
    let end = time_end(tokens, at + 4)
        .ok_or_else(|| SqlError::syntax("FOR SYSTEM_TIME AS OF takes a column").with_hint(AS_OF_HINT).at(position))?;
    let removed: Vec<_> = tokens.drain(at..end).collect();
    let time = removed[4..].to_vec();
    if ["PROCTIME", "NOW", "CURRENT_TIMESTAMP", "LOCALTIMESTAMP"].iter().any(|clock| is_word(&time[0].token, clock)) {
        let message = format!("FOR SYSTEM_TIME AS OF {}() is not supported", time[0].token.to_string().to_uppercase());
        return Err(SqlError::not_supported(message)
            .with_hint(
                "Its result would depend on when it is computed. Use the event time of the left side: FOR SYSTEM_TIME AS OF \
                 a.time.",
            )
            .at(position));
    }
    let is_join = [2, 4].iter().any(|back| at >= *back && sees(tokens, at - back, &["JOIN"]));
    let alias = at + usize::from(sees(tokens, at, &["AS"]));
    let is_alias = |token: &TokenWithSpan| matches!(&token.token, Token::Word(_)) && !is_word(&token.token, "ON");
    let on = alias + usize::from(tokens.get(alias).is_some_and(is_alias));
    if !is_join || !sees(tokens, on, &["ON"]) {
        return Err(SqlError::not_supported("FOR SYSTEM_TIME AS OF other than in JOIN ... ON is not supported")
            .with_hint(AS_OF_HINT)
            .at(position));
    }
    let head = call(&mark, SYSTEM_TIME_AS_OF, time);
    tokens.splice(on + 1..on + 1, head.into_iter().chain([word(&mark, "AND")]));
    Ok(())
}

/// The first ON, USING or MATCH_CONDITION at this depth; a table factor stands before it.
fn constraint(tokens: &[TokenWithSpan], from: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.checked_sub(1)?,
            _ if depth > 0 => {}
            Token::Comma => return None,
            _ if ["ON", "USING", "MATCH_CONDITION"].iter().any(|word| is_word(&token.token, word)) => return Some(at),
            _ if ["JOIN", "WHERE", "GROUP", "UNION", "ORDER"].iter().any(|word| is_word(&token.token, word)) => {
                return None;
            }
            _ => {}
        }
    }
    None
}

/// The place of the parenthesis that closes the one at `from`.
fn closing(tokens: &[TokenWithSpan], from: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 1 => return Some(at),
            Token::RParen => depth = depth.checked_sub(1)?,
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The end of a column, a call or something in parentheses.
fn time_end(tokens: &[TokenWithSpan], from: usize) -> Option<usize> {
    if tokens.get(from)?.token == Token::LParen {
        return closing(tokens, from).map(|end| end + 1);
    }
    let is_name = |at: usize| matches!(tokens.get(at).map(|token| &token.token), Some(Token::Word(_)));
    let is = |at: usize, what: &Token| tokens.get(at).is_some_and(|token| token.token == *what);
    if !is_name(from) {
        return None;
    }
    let mut end = from + 1;
    while is(end, &Token::Period) && is_name(end + 1) {
        end += 2;
    }
    if is(end, &Token::LParen) { closing(tokens, end).map(|end| end + 1) } else { Some(end) }
}

fn call(at: &TokenWithSpan, name: &str, arguments: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let token = |token: Token| TokenWithSpan { token, span: at.span };
    let mut tokens = vec![word(at, name), token(Token::LParen)];
    tokens.extend(arguments);
    tokens.push(token(Token::RParen));
    tokens
}

fn word(at: &TokenWithSpan, text: &str) -> TokenWithSpan {
    TokenWithSpan { token: Token::make_word(text, None), span: at.span }
}
