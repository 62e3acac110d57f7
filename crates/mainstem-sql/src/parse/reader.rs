//! Reading one statement's tokens: sqlparser's parser with places, and the words that it has no keywords for.

use datafusion::sql::sqlparser::ast::{Expr, Query, VisitMut};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::{fold, nesting, qualified_name, refused};
use crate::dialect::MainstemDialect;
use crate::error::SqlError;
use crate::statement::QualifiedName;

static DIALECT: MainstemDialect = MainstemDialect;
/// sqlparser's own guard; the bound that matters is the one on tokens.
const RECURSION_MAX: usize = 20_000;

/// Lines and columns of the whole text as characters and bytes.
pub(super) struct Place<'a> {
    sql: &'a str,
    /// Character and byte at which each line starts.
    lines: Vec<(usize, usize)>,
}

impl<'a> Place<'a> {
    pub(super) fn new(sql: &'a str) -> Place<'a> {
        let mut lines = vec![(0, 0)];
        let newlines = sql.char_indices().enumerate().filter(|(_, (_, c))| *c == '\n');
        lines.extend(newlines.map(|(character, (byte, _))| (character + 1, byte + 1)));
        Place { sql, lines }
    }

    /// From 1; the end of the text for the place of nothing.
    pub(super) fn character(&self, location: Location) -> usize {
        match self.line(location) {
            Some((character, _)) => character + usize::try_from(location.column).unwrap_or(1),
            None => self.sql.chars().count() + 1,
        }
    }

    fn line(&self, location: Location) -> Option<(usize, usize)> {
        let line = usize::try_from(location.line).ok()?.checked_sub(1)?;
        self.lines.get(line).copied()
    }

    pub(super) fn byte(&self, location: Location) -> usize {
        let Some((_, start)) = self.line(location) else { return self.sql.len() };
        let column = usize::try_from(location.column).unwrap_or(1).saturating_sub(1);
        let within = self.sql[start..].char_indices().nth(column).map(|(byte, _)| byte);
        within.map_or(self.sql.len(), |within| start + within)
    }

    fn text(&self, tokens: &[TokenWithSpan]) -> String {
        match (tokens.first(), tokens.last()) {
            (Some(first), Some(last)) => {
                let (from, to) = (self.byte(first.span.start), self.byte(last.span.end));
                self.sql.get(from..to).unwrap_or_default().trim().to_owned()
            }
            _ => String::new(),
        }
    }
}

/// A position in one statement.
pub(super) struct Reader<'a> {
    place: &'a Place<'a>,
    pub(super) parser: Parser<'static>,
    /// The statement's text.
    pub(super) text: String,
    /// Byte of the whole text at which it begins.
    start: usize,
    /// `EMIT ON WINDOW CLOSE` stood at its end.
    pub(super) emit_on_window_close: bool,
    /// What stood behind WITH EARLY EVERY, if that did.
    pub(super) early: Option<Box<Reader<'a>>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(place: &'a Place<'a>, mut tokens: Vec<TokenWithSpan>) -> Reader<'a> {
        let text = place.text(&tokens);
        let start = tokens.first().map_or(0, |token| place.byte(token.span.start));
        // Taken off here, since `FROM t EMIT` would read EMIT as an alias.
        let begins = |tail: &[&str], at: usize| {
            let words = tokens.get(at..).unwrap_or_default().iter().map(|token| &token.token);
            words.clone().count() >= tail.len() && words.zip(tail).all(|(token, word)| is_word(token, word))
        };
        let emit = ["EMIT", "ON", "WINDOW", "CLOSE"];
        let early = ["EMIT", "ON", "WINDOW", "CLOSE", "WITH", "EARLY", "EVERY"];
        let early_at = (1..tokens.len()).rev().find(|at| begins(&early, *at));
        let emit_at =
            early_at.or_else(|| tokens.len().checked_sub(emit.len()).filter(|at| *at > 0 && begins(&emit, *at)));
        let tail = emit_at.map(|at| tokens.split_off(at));
        let early = tail.filter(|_| early_at.is_some()).map(|mut tail| tail.split_off(early.len()));
        let early = early.map(|tokens| Box::new(Reader::new(place, tokens)));
        let emit_on_window_close = emit_at.is_some();
        let parser = Parser::new(&DIALECT)
            .with_recursion_limit(RECURSION_MAX)
            .with_tokens_with_locations(strip_table_words(tokens));
        Reader { place, parser, text, start, emit_on_window_close, early }
    }

    /// The statement's text from the next token on.
    pub(super) fn rest_of_text(&self) -> &str {
        let next = self.place.byte(self.parser.peek_token_ref().span.start);
        self.text.get(next.saturating_sub(self.start)..).unwrap_or_default()
    }

    /// Whether these words, unquoted and in any case, come next.
    pub(super) fn sees(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, word)| is_word(&self.parser.peek_nth_token_ref(n).token, word))
    }

    /// Reads these words if they come next.
    pub(super) fn accept(&mut self, words: &[&str]) -> bool {
        let seen = self.sees(words);
        if seen {
            words.iter().for_each(|_| self.parser.advance_token());
        }
        seen
    }

    /// Reads these words, or it is a syntax error.
    pub(super) fn expect(&mut self, words: &[&str]) -> Result<(), SqlError> {
        for word in words {
            if !self.accept(&[word]) {
                return Err(self.unexpected(word));
            }
        }
        Ok(())
    }

    pub(super) fn accept_token(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    pub(super) fn expect_token(&mut self, token: &Token) -> Result<(), SqlError> {
        if self.accept_token(token) { Ok(()) } else { Err(self.unexpected(&token.to_string())) }
    }

    pub(super) fn sees_token(&self, token: &Token) -> bool {
        self.parser.peek_token_ref().token == *token
    }

    pub(super) fn at_end(&self) -> bool {
        self.sees_token(&Token::EOF)
    }

    /// The statement must end here.
    pub(super) fn end(&mut self) -> Result<(), SqlError> {
        if self.at_end() { Ok(()) } else { Err(self.unexpected("the end of the statement")) }
    }

    /// The next word, in lower case unless quoted.
    pub(super) fn ident(&mut self) -> Result<String, SqlError> {
        let result = self.parser.parse_identifier();
        Ok(fold(&self.parsed(result)?))
    }

    pub(super) fn name(&mut self) -> Result<QualifiedName, SqlError> {
        let result = self.parser.parse_object_name(false);
        let name = self.parsed(result)?;
        qualified_name(&name)
    }

    /// `(a, b, c)`, or nothing.
    pub(super) fn optional_idents(&mut self) -> Result<Vec<String>, SqlError> {
        let mut idents = Vec::new();
        if self.accept_token(&Token::LParen) {
            loop {
                idents.push(self.ident()?);
                if !self.accept_token(&Token::Comma) {
                    break;
                }
            }
            self.expect_token(&Token::RParen)?;
        }
        Ok(idents)
    }

    pub(super) fn string(&mut self) -> Result<String, SqlError> {
        let result = self.parser.parse_literal_string();
        self.parsed(result)
    }

    pub(super) fn query(&mut self) -> Result<Box<Query>, SqlError> {
        let result = self.parser.parse_query();
        let mut query = self.parsed(result)?;
        nesting::flatten(query.as_mut())?;
        Ok(query)
    }

    /// A query that ends before `WITH (`, which sqlparser would read as hints of the query's last table.
    pub(super) fn query_before_with(&mut self) -> Result<Box<Query>, SqlError> {
        let (mut tokens, mut depth) = (Vec::new(), 0usize);
        loop {
            let token = self.parser.peek_nth_token_ref(tokens.len()).clone();
            match &token.token {
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.saturating_sub(1),
                Token::EOF => break,
                word if depth == 0 && is_word(word, "WITH") => {
                    if self.parser.peek_nth_token_ref(tokens.len() + 1).token == Token::LParen {
                        break;
                    }
                }
                _ => {}
            }
            tokens.push(token);
        }
        let count = tokens.len();
        let alone = Parser::new(&DIALECT).with_recursion_limit(RECURSION_MAX).with_tokens_with_locations(tokens);
        let whole = std::mem::replace(&mut self.parser, alone);
        let query = self.query().and_then(|query| self.end().map(|()| query));
        self.parser = whole;
        (0..count).for_each(|_| self.parser.advance_token());
        query
    }

    pub(super) fn expression(&mut self) -> Result<Expr, SqlError> {
        let result = self.parser.parse_expr();
        let mut expression = self.parsed(result)?;
        nesting::flatten(&mut expression)?;
        Ok(expression)
    }

    /// A result of sqlparser, with the place of its error.
    pub(super) fn parsed<T>(&self, result: Result<T, ParserError>) -> Result<T, SqlError> {
        result.map_err(|error| self.error(error))
    }

    /// Makes a part of a statement shallow.
    pub(super) fn flat<T: VisitMut>(&self, mut node: T) -> Result<T, SqlError> {
        nesting::flatten(&mut node)?;
        Ok(node)
    }

    fn error(&self, error: ParserError) -> SqlError {
        let text = match error {
            ParserError::RecursionLimitExceeded => return SqlError::too_complex(),
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        };
        let (text, position) = match text.rfind(" at Line: ") {
            Some(at) => (text[..at].to_owned(), location(&text[at..]).map(|place| self.place.character(place))),
            None => (text, None),
        };
        let mut error = match text.strip_prefix("Expected").and_then(|rest| rest.split_once(", found: ")) {
            Some((expected, found)) => syntax_error(found, expected.trim_start_matches([':', ' '])),
            None => SqlError::syntax(text),
        };
        error.position = position.or_else(|| error.message.ends_with("end of input").then(|| self.end_position()));
        error
    }

    /// A syntax error at the next token.
    pub(super) fn unexpected(&self, expected: &str) -> SqlError {
        let found = self.parser.peek_token_ref();
        syntax_error(&found.token.to_string(), expected).at(self.position())
    }

    /// Where the next token is.
    pub(super) fn position(&self) -> usize {
        match self.parser.peek_token_ref() {
            token if token.token == Token::EOF => self.end_position(),
            token => self.place.character(token.span.start),
        }
    }

    fn end_position(&self) -> usize {
        self.place.sql.trim_end().chars().count() + 1
    }

    /// "X is not supported" at the next token.
    pub(super) fn refuse(&self, what: &str) -> SqlError {
        let error = SqlError::not_supported(format!("{what} is not supported")).at(self.position());
        match refused::hint(what) {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

fn syntax_error(found: &str, expected: &str) -> SqlError {
    let message = match found {
        "EOF" => "syntax error at end of input".to_owned(),
        found => format!("syntax error at or near \"{found}\""),
    };
    SqlError::syntax(message).with_detail(format!("Expected {expected}."))
}

fn location(text: &str) -> Option<Location> {
    let (line, column) = text.strip_prefix(" at Line: ")?.split_once(", Column: ")?;
    Some(Location { line: line.parse().ok()?, column: column.parse().ok()? })
}

pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// Flink's spelling `TABLE(TUMBLE(TABLE t, ...))` becomes `TUMBLE(t, ...)`.
fn strip_table_words(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let functions = ["TUMBLE", "HOP", "CUMULATE", "SESSION"];
    let is_function =
        |i: usize| tokens.get(i).is_some_and(|t| functions.iter().any(|function| is_word(&t.token, function)));
    let is_open = |i: usize| tokens.get(i).is_some_and(|t| t.token == Token::LParen);
    let is_table = |i: usize| tokens.get(i).is_some_and(|t| is_word(&t.token, "TABLE"));
    let mut dropped = vec![false; tokens.len()];
    for i in 0..tokens.len() {
        if is_table(i) && is_open(i + 1) && is_function(i + 2) && is_open(i + 3) {
            if let Some(close) = matching(&tokens, i + 1) {
                dropped[i] = true;
                dropped[i + 1] = true;
                dropped[close] = true;
            }
        }
        let after_open = i >= 2 && is_open(i - 1) && is_function(i - 2);
        let after_data = i >= 2 && is_word(&tokens[i - 2].token, "DATA") && tokens[i - 1].token == Token::RArrow;
        if is_table(i) && (after_open || after_data) && !is_open(i + 1) {
            dropped[i] = true;
        }
    }
    tokens.into_iter().zip(dropped).filter(|(_, dropped)| !dropped).map(|(token, _)| token).collect()
}

fn matching(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(i);
        }
    }
    None
}
