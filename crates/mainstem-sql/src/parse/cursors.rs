//! SUBSCRIBE, and cursors: DECLARE, FETCH, MOVE.

use std::time::Duration;

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::reader::Reader;
use crate::error::{SqlError, sqlstate};
use crate::statement::{Statement, Subscribe, SubscribeTarget};

impl Reader<'_> {
    /// After the word: `[TO] relation | (query)`, then WITH and ENVELOPE in any order.
    pub(super) fn subscribe(&mut self) -> Result<Subscribe, SqlError> {
        self.accept(&["TO"]);
        let target = if self.accept_token(&Token::LParen) {
            let query = self.query()?;
            self.expect_token(&Token::RParen)?;
            SubscribeTarget::Query(query)
        } else {
            SubscribeTarget::Relation(self.name()?)
        };
        let mut subscribe = Subscribe { target, snapshot: true, progress: false, key: Vec::new() };
        loop {
            if self.accept(&["WITH"]) {
                self.subscribe_options(&mut subscribe)?;
            } else if self.sees(&["ENVELOPE"]) && subscribe.key.is_empty() {
                self.envelope(&mut subscribe)?;
            } else {
                break;
            }
        }
        for refused in [["AS", "OF"].as_slice(), &["UP", "TO"], &["WITHIN"]] {
            if self.sees(refused) {
                return Err(self.refuse(&format!("SUBSCRIBE ... {}", refused.join(" "))));
            }
        }
        Ok(subscribe)
    }

    fn subscribe_options(&mut self, subscribe: &mut Subscribe) -> Result<(), SqlError> {
        self.expect_token(&Token::LParen)?;
        loop {
            if self.accept(&["SNAPSHOT"]) {
                subscribe.snapshot = self.flag()?;
            } else if self.accept(&["PROGRESS"]) {
                subscribe.progress = self.flag()?;
            } else {
                return Err(self.refuse(&format!("SUBSCRIBE option {}", self.parser.peek_token_ref())));
            }
            if !self.accept_token(&Token::Comma) {
                break;
            }
        }
        self.expect_token(&Token::RParen)
    }

    /// `[=] value` of an option that is on or off; on without a value.
    fn flag(&mut self) -> Result<bool, SqlError> {
        let is_given = self.accept_token(&Token::Eq);
        if !is_given && (self.sees_token(&Token::Comma) || self.sees_token(&Token::RParen)) {
            return Ok(true);
        }
        let text = self.parser.peek_token_ref().token.to_string().to_lowercase();
        let value = match text.trim_matches('\'') {
            "true" | "on" | "1" | "yes" => true,
            "false" | "off" | "0" | "no" => false,
            _ => return Err(self.unexpected("TRUE or FALSE")),
        };
        self.parser.advance_token();
        Ok(value)
    }

    fn envelope(&mut self, subscribe: &mut Subscribe) -> Result<(), SqlError> {
        self.expect(&["ENVELOPE"])?;
        if !self.accept(&["UPSERT"]) {
            return Err(self.refuse(&format!("ENVELOPE {}", self.parser.peek_token_ref()).to_uppercase()));
        }
        self.expect_token(&Token::LParen)?;
        self.expect(&["KEY"])?;
        if !self.sees_token(&Token::LParen) {
            return Err(self.unexpected("("));
        }
        subscribe.key = self.optional_idents()?;
        self.expect_token(&Token::RParen)
    }

    pub(super) fn declare(&mut self) -> Result<Statement, SqlError> {
        let name = self.ident()?;
        loop {
            if self.sees(&["BINARY"]) || self.sees(&["SCROLL"]) {
                return Err(self.refuse(&format!("{} CURSOR", self.parser.peek_token_ref()).to_uppercase()));
            }
            if !(self.accept(&["INSENSITIVE"]) || self.accept(&["ASENSITIVE"]) || self.accept(&["NO", "SCROLL"])) {
                break;
            }
        }
        if self.sees(&["SUBSCRIPTION", "CURSOR"]) {
            return Err(self
                .refuse("SUBSCRIPTION CURSOR")
                .with_hint("Use DECLARE name CURSOR FOR SUBSCRIBE relation."));
        }
        self.expect(&["CURSOR"])?;
        if self.sees(&["WITH", "HOLD"]) {
            return Err(self.refuse("WITH HOLD"));
        }
        self.accept(&["WITHOUT", "HOLD"]);
        self.expect(&["FOR"])?;
        let statement = if self.accept(&["SUBSCRIBE"]) {
            Statement::Subscribe(self.subscribe()?)
        } else {
            Statement::Query(self.query()?)
        };
        Ok(Statement::Declare { name, statement: Box::new(statement) })
    }

    /// After FETCH or MOVE.
    pub(super) fn fetch(&mut self, is_move: bool) -> Result<Statement, SqlError> {
        for refused in ["PRIOR", "FIRST", "LAST", "ABSOLUTE", "RELATIVE", "BACKWARD"] {
            if self.sees(&[refused]) {
                let word = if is_move { "MOVE" } else { "FETCH" };
                return Err(self.refuse(&format!("{word} {refused}")));
            }
        }
        let is_forward = self.accept(&["FORWARD"]);
        let count = if self.accept(&["ALL"]) {
            None
        } else if matches!(self.parser.peek_token_ref().token, Token::Number(..)) {
            let result = self.parser.parse_literal_uint();
            Some(self.parsed(result)?)
        } else {
            let _ = !is_forward && self.accept(&["NEXT"]);
            Some(1)
        };
        let _ = self.accept(&["FROM"]) || self.accept(&["IN"]);
        let name = self.ident()?;
        let timeout = if self.accept(&["WITH"]) { Some(self.timeout()?) } else { None };
        Ok(Statement::Fetch { name, count, timeout, is_move })
    }

    /// `(timeout = '1s')`
    fn timeout(&mut self) -> Result<Duration, SqlError> {
        self.expect_token(&Token::LParen)?;
        self.expect(&["TIMEOUT"])?;
        self.accept_token(&Token::Eq);
        self.accept(&["INTERVAL"]);
        let position = self.position();
        let text = match self.parser.peek_token_ref().token.clone() {
            Token::Number(seconds, _) => {
                self.parser.advance_token();
                format!("{seconds}s")
            }
            _ => self.string()?,
        };
        self.expect_token(&Token::RParen)?;
        let invalid = || SqlError::new(sqlstate::INVALID_PARAMETER, format!("invalid timeout \"{text}\""));
        let hint = "Write a number and a unit: '500ms', '1s', '2 minutes'.";
        duration(&text).ok_or_else(|| invalid().with_hint(hint).at(position))
    }
}

/// An interval without months.
fn duration(text: &str) -> Option<Duration> {
    let interval = parse_interval_month_day_nano(text).ok().filter(|interval| interval.months == 0)?;
    let days = Duration::from_secs(u64::try_from(interval.days).ok()? * 86_400);
    days.checked_add(Duration::from_nanos(u64::try_from(interval.nanoseconds).ok()?))
}
