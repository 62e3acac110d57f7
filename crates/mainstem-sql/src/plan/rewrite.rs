//! What is done to a query before DataFusion plans it: expressions get PostgreSQL's meaning (`syntax`), windows in FROM become
//! derived tables of ordinary SQL.
//!
//! `tumble(t, ts, size [, offset])`, `hop(t, ts, slide, size [, offset])`, `cumulate(t, ts, step, size [, offset])` and
//! `session(t, ts, gap [, PARTITION BY key, ...])` give t's columns and `window_start`, `window_end`, of the type of ts. A row
//! whose ts is null is in no window. Rows of a session are at most the gap apart; it ends a gap after its last row. Stock
//! DataFusion runs the result; the planner of views knows the functions of `functions::windows` in it again.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, JoinConstraint, JoinOperator, ObjectName, Query,
    SetExpr, TableAlias, TableAliasColumnDef, TableFactor, TableFunctionArgs, VisitMut, VisitorMut,
};

use super::syntax::{call, rewrite_expression};
use crate::error::{SqlError, sqlstate};
use crate::functions::{CUMULATE_ENDS, HOP_STARTS, TUMBLE_START, WINDOW_END, WINDOWS_PER_ROW_MAX, list_function};
use crate::parse::{fold, interval_us, parse_query};

/// Rewrites a query, at any nesting.
pub fn rewrite_query(query: &mut Query) -> Result<(), SqlError> {
    match query.visit(&mut Rewrite) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// The same for anything that may hold a query: a statement's expression, RETURNING items.
pub fn rewrite_windows<T: VisitMut>(node: &mut T) -> Result<(), SqlError> {
    match node.visit(&mut Rewrite) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Whether a table factor is one of these functions; its name in lower case.
pub(super) fn window_function(factor: &TableFactor) -> Option<&'static str> {
    let TableFactor::Table { name, args: Some(_), .. } = factor else { return None };
    let [part] = name.0.as_slice() else { return None };
    let name = fold(part.as_ident()?);
    ["tumble", "hop", "session", "cumulate"].into_iter().find(|known| *known == name)
}

struct Rewrite;

impl VisitorMut for Rewrite {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        if merges_outer(&query.body) {
            let error = SqlError::not_supported("RIGHT and FULL JOIN with USING or NATURAL are not supported");
            return ControlFlow::Break(
                error.with_hint("Write ON a.x = b.x, and coalesce(a.x, b.x) for the common column."),
            );
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        match unsupported(factor) {
            Some(what) => ControlFlow::Break(SqlError::not_supported(format!("{what} is not supported"))),
            None => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        match rewrite_expression(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        if let Some(unnest) = unnest_of(factor) {
            *factor = unnest;
        }
        let Some(function) = window_function(factor) else { return ControlFlow::Continue(()) };
        match replace(function, factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// `unnest(x)`, with or without LATERAL, and `jsonb_array_elements(x)` and the like as rows.
fn unnest_of(factor: &TableFactor) -> Option<TableFactor> {
    let (name, args, alias) = match factor {
        TableFactor::Table { name, args: Some(args), alias, .. } => (name, &args.args, alias),
        TableFactor::Function { name, args, alias, .. } => (name, args, alias),
        TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_ordinality: false, .. } => {
            return Some(unnest("unnest", "unnest", alias, array_exprs.clone()));
        }
        _ => return None,
    };
    let [part] = name.0.as_slice() else { return None };
    let name = fold(part.as_ident()?);
    let list = list_function(&name);
    if name != "unnest" && list.is_none() {
        return None;
    }
    let argument = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    let mut array_exprs = args.iter().map(argument).collect::<Option<Vec<_>>>()?;
    if let Some(list) = list {
        array_exprs = vec![call(list, array_exprs)];
    }
    let column = if list.is_some() && name.contains("elements") { "value" } else { name.as_str() };
    Some(unnest(&name, column, alias, array_exprs))
}

/// Without an alias the rows have the function's name and that of its column; as in PostgreSQL an alias is that of both.
fn unnest(name: &str, column: &str, alias: &Option<TableAlias>, array_exprs: Vec<Expr>) -> TableFactor {
    let alias = alias.clone().unwrap_or_else(|| TableAlias {
        explicit: true,
        name: Ident::new(name),
        columns: vec![TableAliasColumnDef::from_name(column)],
        at: None,
    });
    let columns = match alias.columns.as_slice() {
        [] => vec![TableAliasColumnDef { name: alias.name.clone(), data_type: None }],
        columns => columns.to_vec(),
    };
    let alias = Some(TableAlias { columns, ..alias });
    TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_offset_alias: None, with_ordinality: false }
}

/// Whether a common column would have to come from the right side, or from both. DataFusion takes the left one.
fn merges_outer(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => select.from.iter().flat_map(|from| &from.joins).any(|join| {
            use JoinOperator as J;
            let (J::Right(on) | J::RightOuter(on) | J::FullOuter(on)) = &join.join_operator else { return false };
            matches!(on, JoinConstraint::Using(_) | JoinConstraint::Natural)
        }),
        SetExpr::SetOperation { left, right, .. } => merges_outer(left) || merges_outer(right),
        _ => false,
    }
}

/// What DataFusion would pass over in silence, or refuse in its own words.
fn unsupported(factor: &TableFactor) -> Option<&'static str> {
    match factor {
        TableFactor::Table { version: Some(_), .. } => Some("FOR SYSTEM_TIME AS OF"),
        TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
            Some("TABLESAMPLE")
        }
        TableFactor::Table { with_ordinality: true, .. } => Some("WITH ORDINALITY"),
        TableFactor::MatchRecognize { .. } => Some("MATCH_RECOGNIZE"),
        TableFactor::Pivot { .. } => Some("PIVOT"),
        TableFactor::Unpivot { .. } => Some("UNPIVOT"),
        TableFactor::JsonTable { .. } => Some("JSON_TABLE"),
        TableFactor::XmlTable { .. } => Some("XMLTABLE"),
        _ => None,
    }
}

/// Arguments by name, in the order in which they may also be given without.
struct Arguments {
    function: &'static str,
    names: &'static [&'static str],
    values: Vec<Option<Expr>>,
    /// Of session(): the columns of PARTITION BY.
    rest: Vec<Expr>,
}

impl Arguments {
    fn read(function: &'static str, args: &TableFunctionArgs) -> Result<Arguments, SqlError> {
        let names: &'static [&'static str] = match function {
            "tumble" => &["data", "timecol", "size", "offset"],
            "cumulate" => &["data", "timecol", "step", "size", "offset"],
            "session" => &["data", "timecol", "gap"],
            _ => &["data", "timecol", "slide", "size", "offset"],
        };
        let mut arguments = Arguments { function, names, values: vec![None; names.len()], rest: vec![] };
        for (position, arg) in args.args.iter().enumerate() {
            let (place, value) = match arg {
                FunctionArg::Unnamed(value) => (Some(position).filter(|place| *place < names.len()), value),
                FunctionArg::Named { name, arg, .. } => (names.iter().position(|known| *known == fold(name)), arg),
                FunctionArg::ExprNamed { .. } => (None, &FunctionArgExpr::Wildcard),
            };
            match (place, value) {
                (Some(place), FunctionArgExpr::Expr(value)) => arguments.values[place] = Some(value.clone()),
                (None, FunctionArgExpr::Expr(value)) if function == "session" => arguments.rest.push(value.clone()),
                _ => return Err(arguments.wrong()),
            }
        }
        Ok(arguments)
    }

    fn wrong(&self) -> SqlError {
        let usage = match self.function {
            "tumble" => "tumble(relation, time column, INTERVAL 'size' [, INTERVAL 'offset'])",
            "cumulate" => "cumulate(relation, time column, INTERVAL 'step', INTERVAL 'size' [, INTERVAL 'offset'])",
            "session" => "session(relation, time column, INTERVAL 'gap' [, PARTITION BY column, ...])",
            _ => "hop(relation, time column, INTERVAL 'slide', INTERVAL 'size' [, INTERVAL 'offset'])",
        };
        SqlError::new(sqlstate::UNDEFINED_FUNCTION, format!("wrong arguments of {}()", self.function))
            .with_hint(format!("Write {usage}."))
    }

    fn get(&self, name: &str) -> Option<&Expr> {
        let place = self.names.iter().position(|known| *known == name)?;
        self.values[place].as_ref()
    }

    fn length(&self, name: &str) -> Result<i64, SqlError> {
        let us = interval_us(self.get(name).ok_or_else(|| self.wrong())?)?;
        if us <= 0 {
            let message = format!("the {name} of {}() must be positive", self.function);
            return Err(SqlError::new(sqlstate::INVALID_PARAMETER, message));
        }
        Ok(us)
    }

    fn check_windows(&self, windows: i64) -> Result<(), SqlError> {
        if windows > WINDOWS_PER_ROW_MAX {
            let message =
                format!("{}() would put each row into more than {WINDOWS_PER_ROW_MAX} windows", self.function);
            return Err(SqlError::new(sqlstate::INVALID_PARAMETER, message));
        }
        Ok(())
    }

    fn offset(&self) -> Result<i64, SqlError> {
        self.get("offset").map_or(Ok(0), interval_us)
    }

    /// The time column's text.
    fn time(&self) -> Result<String, SqlError> {
        let mut expr = self.get("timecol").ok_or_else(|| self.wrong())?;
        if let Expr::Function(descriptor) = expr {
            if let (true, FunctionArguments::List(list)) =
                (descriptor.name.to_string().eq_ignore_ascii_case("descriptor"), &descriptor.args)
            {
                if let [FunctionArg::Unnamed(FunctionArgExpr::Expr(column))] = list.args.as_slice() {
                    expr = column;
                }
            }
        }
        match expr {
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => Ok(expr.to_string()),
            _ => Err(self.wrong()),
        }
    }

    /// What is put into windows, and the name under which its columns are known.
    fn data(&self) -> Result<(TableFactor, Option<Ident>), SqlError> {
        match self.get("data").ok_or_else(|| self.wrong())? {
            Expr::Identifier(name) => Ok((table(vec![name.clone()])?, Some(name.clone()))),
            Expr::CompoundIdentifier(parts) => Ok((table(parts.clone())?, parts.last().cloned())),
            Expr::Subquery(query) => {
                let mut factor = derived_template("SELECT * FROM (SELECT 1) AS windowed")?;
                if let TableFactor::Derived { subquery, .. } = &mut factor {
                    subquery.clone_from(query);
                }
                Ok((factor, None))
            }
            _ => Err(self.wrong()),
        }
    }
}

fn table(parts: Vec<Ident>) -> Result<TableFactor, SqlError> {
    let mut factor = derived_template("SELECT * FROM t")?;
    if let TableFactor::Table { name, .. } = &mut factor {
        *name = ObjectName::from(parts);
    }
    Ok(factor)
}

/// The first table factor of a query.
fn derived_template(sql: &str) -> Result<TableFactor, SqlError> {
    let mut query = parse_query(sql)?;
    first_factor(&mut query).cloned().ok_or_else(|| SqlError::new(sqlstate::INTERNAL, "template without FROM"))
}

fn first_factor(query: &mut Query) -> Option<&mut TableFactor> {
    match query.body.as_mut() {
        SetExpr::Select(select) => select.from.first_mut().map(|from| &mut from.relation),
        _ => None,
    }
}

fn replace(function: &'static str, factor: &mut TableFactor) -> Result<(), SqlError> {
    let TableFactor::Table { args: Some(args), alias, .. } = &*factor else { return Ok(()) };
    let arguments = Arguments::read(function, args)?;
    let (data, name) = arguments.data()?;
    let alias = alias.clone().or_else(|| {
        let name = name.unwrap_or_else(|| Ident::new(function));
        Some(TableAlias { explicit: true, name, columns: vec![], at: None })
    });
    let text = match function {
        "tumble" => tumble(&arguments)?,
        "hop" => hop(&arguments)?,
        "cumulate" => cumulate(&arguments)?,
        _ => session(&arguments)?,
    };
    let mut query = parse_query(&text)?;
    let innermost = first_factor(&mut query).map(innermost);
    *innermost.ok_or_else(|| SqlError::new(sqlstate::INTERNAL, "template without FROM"))? = data;
    *factor = TableFactor::Derived { lateral: false, subquery: query, alias, sample: None };
    Ok(())
}

/// The template's table `t`, at the bottom of its derived tables.
fn innermost(factor: &mut TableFactor) -> &mut TableFactor {
    if let TableFactor::Derived { subquery, .. } = &*factor
        && matches!(subquery.body.as_ref(), SetExpr::Select(select) if !select.from.is_empty())
    {
        let TableFactor::Derived { subquery, .. } = factor else { unreachable!("seen above") };
        return first_factor(subquery).map(innermost).expect("seen above");
    }
    factor
}

fn tumble(arguments: &Arguments) -> Result<String, SqlError> {
    let (time, offset, size) = (arguments.time()?, arguments.offset()?, arguments.length("size")?);
    let start = format!("{TUMBLE_START}({time}, {size}, {offset})");
    Ok(format!(
        "SELECT *, {start} AS window_start, {WINDOW_END}({start}, {size}) AS window_end FROM t WHERE {time} IS NOT NULL"
    ))
}

fn hop(arguments: &Arguments) -> Result<String, SqlError> {
    let (time, offset) = (arguments.time()?, arguments.offset()?);
    let (slide, size) = (arguments.length("slide")?, arguments.length("size")?);
    arguments.check_windows(size / slide)?;
    Ok(format!(
        "SELECT *, {WINDOW_END}(window_start, {size}) AS window_end FROM (SELECT *, \
         unnest({HOP_STARTS}({time}, {slide}, {size}, {offset})) AS window_start FROM t WHERE {time} IS NOT NULL) AS w"
    ))
}

fn cumulate(arguments: &Arguments) -> Result<String, SqlError> {
    let (time, offset) = (arguments.time()?, arguments.offset()?);
    let (step, size) = (arguments.length("step")?, arguments.length("size")?);
    if size % step != 0 {
        let message = "the size of cumulate() must be a multiple of its step";
        return Err(SqlError::new(sqlstate::INVALID_PARAMETER, message));
    }
    arguments.check_windows(size / step)?;
    Ok(format!(
        "SELECT * FROM (SELECT *, {TUMBLE_START}({time}, {size}, {offset}) AS window_start, \
         unnest({CUMULATE_ENDS}({time}, {step}, {size}, {offset})) AS window_end FROM t WHERE {time} IS NOT NULL) AS w"
    ))
}

/// A row begins a session if the one before it is further back than the gap; how many have begun up to a row is its session.
fn session(arguments: &Arguments) -> Result<String, SqlError> {
    let (time, gap) = (arguments.time()?, arguments.length("gap")?);
    let keys = arguments.rest.iter().map(column_text).collect::<Option<Vec<_>>>().ok_or_else(|| arguments.wrong())?;
    let named = keys.iter().enumerate().map(|(place, key)| format!(", {key} AS __session_key{place}"));
    let named: String = named.collect();
    let names: String = (0..keys.len()).map(|place| format!("__session_key{place}, ")).collect();
    let by_keys = match names.trim_end_matches(", ") {
        "" => String::new(),
        names => format!("PARTITION BY {names}"),
    };
    let session = format!("(PARTITION BY {names}__session)");
    Ok(format!(
        "SELECT * EXCLUDE ({names}__session_time, __session_begin, __session) FROM (SELECT *, \
         min(__session_time) OVER {session} AS window_start, \
         {WINDOW_END}(max(__session_time) OVER {session}, {gap}) AS window_end FROM (SELECT *, \
         sum(__session_begin) OVER ({by_keys} ORDER BY __session_time) AS __session FROM (SELECT *, \
         CASE WHEN __session_time <= {WINDOW_END}(lag(__session_time) OVER ({by_keys} ORDER BY __session_time), {gap}) \
         THEN 0 ELSE 1 END AS __session_begin FROM (SELECT *, {time} AS __session_time{named} FROM t \
         WHERE {time} IS NOT NULL) AS a) AS b) AS c) AS d"
    ))
}

fn column_text(expr: &Expr) -> Option<String> {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)).then(|| expr.to_string())
}
