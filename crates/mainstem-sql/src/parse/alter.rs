//! ALTER, and the texts of definitions as they are after it.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Query, TableAlias, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::reader::{Place, Reader, is_word};
use super::{fold, parse_query};
use crate::dialect::MainstemDialect;
use crate::error::{SqlError, sqlstate};
use crate::statement::{AddColumn, Alter, BackfillRate, RelationNoun, Rename, Statement};

impl Reader<'_> {
    /// After ALTER.
    pub(super) fn alter(&mut self) -> Result<Statement, SqlError> {
        if let Some(attached) = ["SINK", "INDEX"].into_iter().find(|word| self.sees(&[word])) {
            return Err(self.refuse(&format!("ALTER {attached}")));
        }
        let Some(kind) = self.relation_noun() else { return Err(self.refuse_kind("ALTER")) };
        let if_exists = self.accept(&["IF", "EXISTS"]);
        let name = self.name()?;
        let words = kind.text().to_uppercase();
        if self.accept(&["RENAME", "TO"]) {
            let to = self.ident()?;
            return Ok(Statement::Alter(Alter::Rename(Rename { kind, name, if_exists, to })));
        }
        if self.sees(&["RENAME"]) {
            return Err(self.refuse(&format!("ALTER {words} RENAME COLUMN")));
        }
        if self.accept(&["ADD"]) {
            if !matches!(kind, RelationNoun::Table | RelationNoun::Source) {
                return Err(self.refuse(&format!("ALTER {words} ADD")).with_hint("Use CREATE OR REPLACE."));
            }
            for refused in ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"] {
                if self.sees(&[refused]) {
                    return Err(self.refuse(&format!("ALTER {words} ADD {refused}")));
                }
            }
            self.accept(&["COLUMN"]);
            let if_not_exists = self.accept(&["IF", "NOT", "EXISTS"]);
            let text = self.rest_of_text().to_owned();
            let position = self.position();
            let column = self.added_column()?;
            if self.sees_token(&Token::Comma) {
                return Err(self.refuse("ALTER with several actions").with_hint("Use one ALTER for each."));
            }
            let add = AddColumn { kind, name, if_exists, if_not_exists, column, text, position };
            return Ok(Statement::Alter(Alter::AddColumn(add)));
        }
        if kind == RelationNoun::MaterializedView {
            if self.accept(&["PAUSE", "BACKFILL"]) {
                return Ok(Statement::Alter(Alter::Backfill { name, if_exists, rate: BackfillRate::Paused }));
            }
            if self.accept(&["RESUME", "BACKFILL"]) {
                return Ok(Statement::Alter(Alter::Backfill { name, if_exists, rate: BackfillRate::Resumed }));
            }
            if self.accept(&["SET", "BACKFILL_RATE_LIMIT"]) {
                if !self.accept(&["TO"]) {
                    self.expect_token(&Token::Eq)?;
                }
                let rate = self.backfill_rate()?;
                return Ok(Statement::Alter(Alter::Backfill { name, if_exists, rate }));
            }
        }
        let action = self.parser.peek_token_ref().to_string().to_uppercase();
        if self.at_end() {
            return Err(self.unexpected("ADD COLUMN or RENAME TO"));
        }
        let second = self.parser.peek_nth_token_ref(1).token.to_string().to_uppercase();
        let second =
            if matches!(self.parser.peek_nth_token_ref(1).token, Token::Word(_)) { second } else { String::new() };
        Err(self.refuse(format!("ALTER {words} {action} {second}").trim_end()).with_hint(match kind {
            RelationNoun::Table | RelationNoun::Source => "ADD COLUMN and RENAME TO are supported.",
            _ => "RENAME TO is supported; a view is changed by CREATE OR REPLACE.",
        }))
    }

    fn backfill_rate(&mut self) -> Result<BackfillRate, SqlError> {
        let position = self.position();
        if self.accept(&["DEFAULT"]) {
            return Ok(BackfillRate::Resumed);
        }
        let text = match self.parser.peek_token_ref().token.clone() {
            Token::Number(text, _) | Token::SingleQuotedString(text) => text,
            _ => return Err(self.unexpected("rows per second, or DEFAULT")),
        };
        self.parser.advance_token();
        match text.parse::<u32>() {
            Ok(0) => Ok(BackfillRate::Paused),
            Ok(rows) => Ok(BackfillRate::RowsPerSecond(rows)),
            Err(_) if text.eq_ignore_ascii_case("default") => Ok(BackfillRate::Resumed),
            Err(_) => {
                let message = format!("invalid backfill rate limit: {text}");
                Err(SqlError::new(sqlstate::INVALID_PARAMETER, message)
                    .at(position)
                    .with_hint("Give rows per second, 0 for a pause, or DEFAULT for no limit."))
            }
        }
    }
}

/// The tokens of a definition's text, with where each begins and ends in it.
fn tokens_of(sql: &str) -> Result<Vec<(TokenWithSpan, usize, usize)>, SqlError> {
    let place = Place::new(sql);
    let tokens = Tokenizer::new(&MainstemDialect, sql)
        .tokenize_with_location()
        .map_err(|error| SqlError::syntax(error.message))?;
    let is_text = |token: &TokenWithSpan| !matches!(token.token, Token::Whitespace(_) | Token::EOF);
    let with_bytes = |token: TokenWithSpan| {
        let (from, to) = (place.byte(token.span.start), place.byte(token.span.end));
        (token, from, to)
    };
    Ok(tokens.into_iter().filter(is_text).map(with_bytes).collect())
}

/// The text of a CREATE TABLE or CREATE SOURCE with one more column.
pub fn text_with_column(sql: &str, column: &str) -> Result<String, SqlError> {
    let tokens = tokens_of(sql)?;
    let mut depth = 0_usize;
    for (token, from, _) in &tokens {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 1 => {
                return Ok(format!("{}, {column}{}", &sql[..*from], &sql[*from..]));
            }
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Err(SqlError::new(sqlstate::INTERNAL, "the definition has no list of columns"))
}

/// The text of a CREATE under another name.
pub fn text_with_name(sql: &str, name: &str) -> Result<String, SqlError> {
    let tokens = tokens_of(sql)?;
    let mut place = 0;
    let mut sees = |words: &[&str]| {
        let is_next =
            |(n, word): (usize, &&str)| tokens.get(place + n).is_some_and(|(token, ..)| is_word(&token.token, word));
        let all = words.iter().enumerate().all(is_next);
        if all {
            place += words.len();
        }
        all
    };
    let kinds: [&[&str]; 8] = [
        &["MATERIALIZED", "VIEW"],
        &["VIEW"],
        &["TABLE"],
        &["SOURCE"],
        &["SINK"],
        &["UNIQUE", "INDEX"],
        &["INDEX"],
        &["SUBSCRIPTION"],
    ];
    let known = sees(&["CREATE"]) && kinds.into_iter().any(&mut sees);
    let _ = sees(&["IF", "NOT", "EXISTS"]);
    let internal = || SqlError::new(sqlstate::INTERNAL, "the definition has no name");
    let first = tokens.get(place).filter(|_| known).ok_or_else(internal)?;
    let mut last = place;
    while tokens.get(last + 1).is_some_and(|(token, ..)| token.token == Token::Period) && last + 2 < tokens.len() {
        last += 2;
    }
    Ok(format!("{}{}{}", &sql[..first.1], quoted(name), &sql[tokens[last].2..]))
}

/// The text of a query, with this relation of `public` under another name. What named its columns by the relation's name
/// still can: the old name is its alias.
pub fn query_with_name(query: &str, from: &str, to: &str) -> Result<String, SqlError> {
    let mut query = parse_query(query)?;
    let mut rename = Renaming { from, to, ctes: Vec::new() };
    let _ = query.visit(&mut rename);
    Ok(query.to_string())
}

struct Renaming<'n> {
    from: &'n str,
    to: &'n str,
    ctes: Vec<Vec<String>>,
}

impl Renaming<'_> {
    /// Whether it is the relation, and not a WITH query of its name.
    fn is_it(&self, parts: &[String]) -> bool {
        match parts {
            [name] => name == self.from && !self.ctes.iter().flatten().any(|cte| cte == name),
            [.., schema, name] => schema == "public" && name == self.from,
            [] => false,
        }
    }

    fn new_name(&self) -> ObjectName {
        ObjectName::from(vec![Ident::new("public"), Ident::with_quote('"', self.to)])
    }

    fn argument(&self, argument: &mut FunctionArg) {
        let (FunctionArg::Unnamed(FunctionArgExpr::Expr(value))
        | FunctionArg::Named { arg: FunctionArgExpr::Expr(value), .. }) = argument
        else {
            return;
        };
        let parts: Vec<String> = match value {
            Expr::Identifier(name) => vec![fold(name)],
            Expr::CompoundIdentifier(parts) => parts.iter().map(fold).collect(),
            _ => return,
        };
        if self.is_it(&parts) {
            *value = Expr::CompoundIdentifier(vec![Ident::new("public"), Ident::with_quote('"', self.to)]);
        }
    }
}

impl VisitorMut for Renaming<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| fold(&cte.alias.name));
        self.ctes.push(ctes.collect());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.ctes.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { args: Some(arguments), .. } => {
                // Only the first argument of a window function is a relation.
                arguments.args.iter_mut().take(1).for_each(|argument| self.argument(argument));
            }
            TableFactor::Function { args, .. } => args.iter_mut().take(1).for_each(|argument| self.argument(argument)),
            TableFactor::Table { name, alias, args: None, .. } => {
                let parts: Vec<String> = name.0.iter().filter_map(|part| part.as_ident().map(fold)).collect();
                if self.is_it(&parts) {
                    *name = self.new_name();
                    if alias.is_none() {
                        *alias = Some(alias_of(self.from));
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn alias_of(name: &str) -> TableAlias {
    TableAlias { explicit: true, name: Ident::with_quote('"', name), columns: vec![], at: None }
}

/// The text of a query in which these relations of `public` have only these columns, whatever they have by now.
pub fn query_with_columns(query: &str, relations: &[(String, Vec<String>)]) -> Result<String, SqlError> {
    let mut query = parse_query(query)?;
    let _ = query.visit(&mut Narrowing { relations, ctes: Vec::new() });
    Ok(query.to_string())
}

struct Narrowing<'n> {
    relations: &'n [(String, Vec<String>)],
    ctes: Vec<Vec<String>>,
}

impl VisitorMut for Narrowing<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| fold(&cte.alias.name));
        self.ctes.push(ctes.collect());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.ctes.pop();
        ControlFlow::Continue(())
    }

    /// Afterwards, so that what is put in is not visited itself.
    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, alias, args: None, .. } = factor else { return ControlFlow::Continue(()) };
        let parts: Vec<String> = name.0.iter().filter_map(|part| part.as_ident().map(fold)).collect();
        let plain = match parts.as_slice() {
            [name] if !self.ctes.iter().flatten().any(|cte| cte == name) => name,
            [.., schema, name] if schema == "public" => name,
            _ => return ControlFlow::Continue(()),
        };
        let Some((known, columns)) = self.relations.iter().find(|(known, _)| known == plain) else {
            return ControlFlow::Continue(());
        };
        let quote = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
        let list: Vec<String> = columns.iter().map(quote).collect();
        let text = format!("SELECT {} FROM public.{}", list.join(", "), quote(known));
        if let Ok(subquery) = parse_query(&text) {
            let alias = alias.take().unwrap_or_else(|| alias_of(known));
            *factor = TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None };
        }
        ControlFlow::Continue(())
    }
}

/// A name as it has to be written: in quotes unless it is a plain word in lower case that is no keyword of a definition.
pub fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !is_keyword(name);
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn is_keyword(name: &str) -> bool {
    use datafusion::sql::sqlparser::keywords::{ALL_KEYWORDS, ALL_KEYWORDS_INDEX, RESERVED_FOR_TABLE_ALIAS};
    let Ok(at) = ALL_KEYWORDS.binary_search(&name.to_uppercase().as_str()) else { return false };
    RESERVED_FOR_TABLE_ALIAS.contains(&ALL_KEYWORDS_INDEX[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_added_at_the_end_of_the_list() {
        let added = |sql: &str| text_with_column(sql, "c int").expect(sql);
        assert_eq!(added("CREATE TABLE t (a int)"), "CREATE TABLE t (a int, c int)");
        assert_eq!(
            added("CREATE TABLE t (a numeric(3,1), PRIMARY KEY (a) -- )\n ) "),
            "CREATE TABLE t (a numeric(3,1), PRIMARY KEY (a) -- )\n , c int) "
        );
        assert_eq!(
            added("CREATE SOURCE \"ü(\" (a int) INCLUDE key AS k WITH (topic = 't') FORMAT PLAIN ENCODE JSON"),
            "CREATE SOURCE \"ü(\" (a int, c int) INCLUDE key AS k WITH (topic = 't') FORMAT PLAIN ENCODE JSON"
        );
    }

    #[test]
    fn a_name_is_put_in_place_of_another() {
        let named = |sql: &str, name: &str| text_with_name(sql, name).expect(sql);
        assert_eq!(named("CREATE TABLE t (t int)", "u"), "CREATE TABLE u (t int)");
        assert_eq!(
            named("create  view if not exists public.\"T\"(a) AS SELECT 1", "From"),
            "create  view if not exists \"From\"(a) AS SELECT 1"
        );
        assert_eq!(
            named("CREATE MATERIALIZED VIEW dev.public.v AS SELECT 1", "w"),
            "CREATE MATERIALIZED VIEW w AS SELECT 1"
        );
    }
}
