//! What PostgreSQL's tools write and DataFusion does not read, by the meaning of each construct.
//!
//! - names without schema that are tables of `pg_catalog` get it; names of functions lose it;
//! - `COLLATE` goes, since text has one order; `OPERATOR(pg_catalog.~)` is the operator;
//! - casts of names to `regclass` and the like are their oids, casts of oids to them are their names;
//! - a subquery over a table that is always empty is null, false, or the empty list; so is every subquery in the select list
//!   of a query over such a table, since no row will ever ask for it;
//! - items without names of their own get them, so that no two are the same.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, JoinOperator, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr,
    TableFactor, Value, ValueWithSpan, VisitMut, VisitorMut,
};
use mainstem_catalog::Catalog;
use mainstem_sql::{SqlError, parse_expression};

use super::functions::{DEFAULT_TEXT, EXPAND_ARRAY, REGCLASS_TEXT, REGNAMESPACE_TEXT, REGTYPE_TEXT, SUBSCRIPTS};
use super::{SCHEMAS, folded, pg_catalog};

/// Rewrites a query that [`super::is_system_query`] has found.
pub(crate) fn rewrite(query: &mut Query, catalog: &Catalog) -> Result<(), SqlError> {
    match query.visit(&mut Rewrite { catalog }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rewrite<'c> {
    catalog: &'c Catalog,
}

impl VisitorMut for Rewrite<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        name_items(&mut query.body);
        drop_unreachable(&mut query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &mut ObjectName) -> ControlFlow<SqlError> {
        if let [table] = folded(name).as_slice()
            && pg_catalog::is_table(table)
            && self.catalog.relation_named("public", table).is_none()
        {
            name.0.insert(0, ObjectNamePart::Identifier(Ident::new("pg_catalog")));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        if let TableFactor::Table { name, args, .. } = factor
            && folded(name).last().map(String::as_str) == Some(pg_catalog::KEYWORDS)
        {
            *args = None;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        let simple = default_of_column(expr).or_else(|| subquery_over_nothing(expr));
        if let Some(simple) = simple.or_else(|| list_of_subquery(expr)).or_else(|| one_of_list(expr)) {
            *expr = simple;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        match self.expression(expr) {
            Ok(Some(new)) => *expr = new,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

impl Rewrite<'_> {
    fn expression(&self, expr: &mut Expr) -> Result<Option<Expr>, SqlError> {
        match expr {
            Expr::Collate { expr, .. } => Ok(Some(std::mem::replace(expr, null()))),
            Expr::BinaryOp { op, .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(parts) = op
                    && let Some(known) = parts.last().and_then(|name| plain_operator(name))
                {
                    *op = known;
                }
                Ok(None)
            }
            Expr::Identifier(name)
                if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("current_schema") =>
            {
                Ok(Some(call("current_schema", vec![])))
            }
            Expr::Function(function) => Ok(rename_call(function)),
            Expr::Cast { expr, data_type, .. } => self.cast(expr, data_type),
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                with_backslash(pattern, escape_char);
                Ok(None)
            }
            Expr::CompoundFieldAccess { root, access_chain } => Ok(field_of(root, access_chain)),
            _ => Ok(None),
        }
    }

    fn cast(&self, inner: &mut Box<Expr>, data_type: &mut DataType) -> Result<Option<Expr>, SqlError> {
        let name = match data_type {
            DataType::Regclass => "regclass".to_owned(),
            DataType::Custom(name, _) => folded(name).last().cloned().unwrap_or_default(),
            DataType::Array(_) => {
                let text = data_type.to_string().to_lowercase();
                if let Some(plain) = text.strip_prefix("pg_catalog.") {
                    *data_type = type_named(plain)?;
                }
                return Ok(None);
            }
            _ => return Ok(None),
        };
        let shown = match name.as_str() {
            "regclass" => REGCLASS_TEXT,
            "regtype" => REGTYPE_TEXT,
            "regnamespace" => REGNAMESPACE_TEXT,
            "regproc" | "regprocedure" | "regrole" | "regoper" => "mainstem_regtype_text",
            "oid" | "xid" | "cid" => {
                *data_type = type_named("bigint")?;
                return Ok(None);
            }
            "name" | "char" | "cstring" | "int2vector" | "oidvector" | "text" => {
                *data_type = type_named("varchar")?;
                return Ok(None);
            }
            plain => {
                *data_type = type_named(plain)?;
                return Ok(None);
            }
        };
        if name == "regclass" && is_parameter(inner) {
            let inner = std::mem::replace(inner.as_mut(), null());
            return Ok(Some(call("to_regclass", vec![inner])));
        }
        let Some(text) = text_of(inner).map(str::to_owned) else {
            let inner = std::mem::replace(inner.as_mut(), null());
            return Ok(Some(call(shown, vec![inner])));
        };
        if matches!(name.as_str(), "regproc" | "regprocedure") {
            let bare = text.rsplit('.').next().unwrap_or_default().to_owned();
            return Ok(Some(Expr::Value(ValueWithSpan::from(Value::SingleQuotedString(bare)))));
        }
        let oid = match text.parse::<u32>() {
            Ok(oid) => oid,
            Err(_) => self.oid_of(&name, &text)?,
        };
        parse_expression(&oid.to_string()).map(Some)
    }

    fn oid_of(&self, kind: &str, text: &str) -> Result<u32, SqlError> {
        let plain = text.replace('"', "");
        let name = plain.rsplit('.').next().unwrap_or_default();
        match kind {
            "regclass" => {
                if let Some(relation) = self.catalog.relation_named("public", name) {
                    return Ok(relation.id.0);
                }
                let missing = || SqlError::new("42P01", format!("relation \"{text}\" does not exist"));
                pg_catalog::system_oid(name).ok_or_else(missing)
            }
            "regnamespace" => match name {
                "pg_catalog" => Ok(pg_catalog::PG_CATALOG),
                "public" => Ok(pg_catalog::PUBLIC),
                "information_schema" => Ok(pg_catalog::INFORMATION_SCHEMA),
                "mainstem" => Ok(pg_catalog::MAINSTEM),
                _ => Err(SqlError::new("3F000", format!("schema \"{text}\" does not exist"))),
            },
            "regtype" => pg_catalog::type_oid(name)
                .ok_or_else(|| SqlError::new("42704", format!("type \"{text}\" does not exist"))),
            "regrole" => Ok(pg_catalog::OWNER),
            _ => Err(SqlError::new("42883", format!("function \"{text}\" does not exist"))),
        }
    }
}

/// Whether it is a parameter, or a parameter of a type.
fn is_parameter(expr: &Expr) -> bool {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::Placeholder(_), .. }) => true,
        Expr::Cast { expr, .. } | Expr::Nested(expr) => is_parameter(expr),
        _ => false,
    }
}

/// A string, perhaps as one of a type.
fn text_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => Some(text),
        Expr::Cast { expr, .. } | Expr::Nested(expr) => text_of(expr),
        _ => None,
    }
}

/// `LIKE ... ESCAPE` by a character of its own, with the backslash.
fn with_backslash(pattern: &mut Box<Expr>, escape: &mut Option<ValueWithSpan>) {
    let own = escape.as_ref().and_then(|escape| match &escape.value {
        Value::SingleQuotedString(text) if text != "\\" && text.chars().count() == 1 => Some(text.clone()),
        _ => None,
    });
    let Some(own) = own else { return };
    let string = |text: &str| Expr::Value(ValueWithSpan::from(Value::SingleQuotedString(text.to_owned())));
    let before = std::mem::replace(pattern.as_mut(), null());
    **pattern = call("replace", vec![before, string(&own), string("\\")]);
    *escape = None;
}

/// `(SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = x AND adnum = y ...)`: the default of column y of x.
fn default_of_column(expr: &Expr) -> Option<Expr> {
    let Expr::Subquery(query) = expr else { return None };
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let [from] = select.from.as_slice() else { return None };
    let TableFactor::Table { name, .. } = &from.relation else { return None };
    if !from.joins.is_empty() || folded(name).last().map(String::as_str) != Some("pg_attrdef") {
        return None;
    }
    let (mut relation, mut number) = (None, None);
    let mut open = vec![select.selection.as_ref()?];
    while let Some(condition) = open.pop() {
        match condition {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => open.extend([left.as_ref(), right.as_ref()]),
            Expr::Nested(inner) => open.push(inner),
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                for (column, other) in [(left, right), (right, left)] {
                    match last_name(column).as_deref() {
                        Some("adrelid") => relation = Some(other.as_ref().clone()),
                        Some("adnum") => number = Some(other.as_ref().clone()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(call(DEFAULT_TEXT, vec![relation?, number?]))
}

/// `ARRAY(SELECT x FROM ...)` over something: the list of what it gives.
fn list_of_subquery(expr: &Expr) -> Option<Expr> {
    let Expr::Function(function) = expr else { return None };
    let FunctionArguments::Subquery(query) = &function.args else { return None };
    if folded(&function.name) != ["array"] {
        return None;
    }
    let mut query = query.clone();
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }] = select.projection.as_slice()
    else {
        return None;
    };
    if select.distinct.is_some() || query.limit_clause.is_some() || aggregates(select) {
        return None;
    }
    select.projection = vec![SelectItem::UnnamedExpr(call("array_agg", vec![item.clone()]))];
    // The order of a list of names is for people; the aggregate has one row.
    query.order_by = None;
    Some(Expr::Subquery(query))
}

/// `x = ANY ('{a,b}')`, `x <> ALL ('{a,b}')` over plain words.
fn one_of_list(expr: &Expr) -> Option<Expr> {
    let (left, right, negated) = match expr {
        Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => (left, right, false),
        Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => (left, right, true),
        _ => return None,
    };
    let words = text_of(right)?.strip_prefix('{')?.strip_suffix('}')?;
    if words.is_empty() || words.contains(['"', '\\', '{']) {
        return None;
    }
    let word = |text: &str| Expr::Value(ValueWithSpan::from(Value::SingleQuotedString(text.to_owned())));
    let list = words.split(',').map(word).collect();
    Some(Expr::InList { expr: left.clone(), list, negated })
}

fn last_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(name.value.to_lowercase()),
        Expr::CompoundIdentifier(parts) => parts.last().map(|name| name.value.to_lowercase()),
        _ => None,
    }
}

/// `(expression).field`
fn field_of(root: &mut Box<Expr>, chain: &[AccessExpr]) -> Option<Expr> {
    let [AccessExpr::Dot(Expr::Identifier(name))] = chain else { return None };
    let name = Expr::Value(ValueWithSpan::from(Value::SingleQuotedString(name.value.to_lowercase())));
    let root = std::mem::replace(root.as_mut(), null());
    Some(call("get_field", vec![root, name]))
}

fn null() -> Expr {
    Expr::Value(ValueWithSpan::from(Value::Null))
}

fn type_named(name: &str) -> Result<DataType, SqlError> {
    match parse_expression(&format!("CAST(NULL AS {name})"))? {
        Expr::Cast { data_type, .. } => Ok(data_type),
        _ => Err(SqlError::new("42704", format!("type \"{name}\" does not exist"))),
    }
}

fn plain_operator(name: &str) -> Option<BinaryOperator> {
    Some(match name {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        "~~" => BinaryOperator::PGLikeMatch,
        _ => return None,
    })
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let mut made = parse_expression("f()").expect("a call without arguments");
    if let Expr::Function(function) = &mut made {
        function.name = ObjectName::from(vec![Ident::new(name)]);
        let args = arguments.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
        function.args =
            FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] });
    }
    made
}

/// Functions have no schemas.
fn rename_call(function: &mut Function) -> Option<Expr> {
    let parts = folded(&function.name);
    let name = parts.last()?.clone();
    if parts.len() > 1 && SCHEMAS.contains(&parts[parts.len() - 2].as_str()) {
        function.name = ObjectName::from(vec![Ident::new(name.clone())]);
    }
    match (name.as_str(), &function.args) {
        ("current_schemas", _) => parse_expression("make_array('pg_catalog', 'public')").ok(),
        ("generate_subscripts", FunctionArguments::List(list)) => match list.args.first() {
            Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(array))) => {
                Some(call("unnest", vec![call(SUBSCRIPTS, vec![array.clone()])]))
            }
            _ => None,
        },
        (EXPAND_ARRAY, _) => Some(call("unnest", vec![Expr::Function(function.clone())])),
        ("current_user" | "session_user" | "user" | "current_catalog" | "current_role", FunctionArguments::None) => {
            Some(call(&name, vec![]))
        }
        _ => None,
    }
}

/// What a subquery over a table that is always empty gives.
fn subquery_over_nothing(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Subquery(query) if is_over_nothing(query) => Some(null()),
        Expr::Exists { subquery, negated } if is_over_nothing(subquery) => {
            parse_expression(if *negated { "true" } else { "false" }).ok()
        }
        Expr::Function(function) if folded(&function.name) == ["array"] => match &function.args {
            FunctionArguments::Subquery(query) if is_over_nothing(query) => {
                parse_expression("arrow_cast(make_array(), 'List(Utf8)')").ok()
            }
            _ => None,
        },
        _ => None,
    }
}

fn is_over_nothing(query: &Query) -> bool {
    matches!(query.body.as_ref(), SetExpr::Select(select) if reads_nothing(select) && !aggregates(select))
}

/// Whether the rows of a select come from a table that is always empty, by a plain FROM or inner joins.
fn reads_nothing(select: &Select) -> bool {
    let is_empty = |factor: &TableFactor| {
        let name = match factor {
            TableFactor::Table { name, args: None, .. } => name,
            TableFactor::Table { name, args: Some(of), .. } => {
                let functions = ["unnest", "pg_options_to_table"];
                let is_of_lists = folded(name).last().is_some_and(|name| functions.contains(&name.as_str()));
                return is_of_lists
                    && of.args.iter().all(
                        |arg| matches!(arg, FunctionArg::Unnamed(FunctionArgExpr::Expr(of)) if is_always_null(of)),
                    );
            }
            TableFactor::UNNEST { array_exprs, .. } => return array_exprs.iter().all(is_always_null),
            _ => return false,
        };
        match folded(name).as_slice() {
            [table] => pg_catalog::is_always_empty(table),
            [.., schema, table] => schema == "pg_catalog" && pg_catalog::is_always_empty(table),
            [] => false,
        }
    };
    select.from.iter().any(|from| {
        let is_inner = |operator: &JoinOperator| {
            matches!(operator, JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_))
        };
        let all_inner = from.joins.iter().all(|join| is_inner(&join.join_operator));
        let preserves = from.joins.iter().all(|join| {
            is_inner(&join.join_operator)
                || matches!(join.join_operator, JoinOperator::Left(_) | JoinOperator::LeftOuter(_))
        });
        (is_empty(&from.relation) && preserves) || (all_inner && from.joins.iter().any(|join| is_empty(&join.relation)))
    })
}

/// Columns of lists that are null in every row, wherever they are.
fn is_always_null(expr: &Expr) -> bool {
    let name = match expr {
        Expr::Identifier(name) => name,
        Expr::CompoundIdentifier(parts) => match parts.last() {
            Some(name) => name,
            None => return false,
        },
        _ => return false,
    };
    let name = name.value.to_lowercase();
    ["reloptions", "attoptions", "attfdwoptions", "ftoptions", "srvoptions", "rolconfig"].contains(&name.as_str())
}

/// Whether a select may give a row although it reads none.
fn aggregates(select: &Select) -> bool {
    struct Found;
    impl datafusion::sql::sqlparser::ast::Visitor for Found {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(function) => {
                    let name = folded(&function.name).pop().unwrap_or_default();
                    let known = ["count", "sum", "min", "max", "avg", "array_agg", "string_agg", "bool_and", "bool_or"];
                    if known.contains(&name.as_str()) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    use datafusion::sql::sqlparser::ast::Visit;
    select.projection.iter().any(|item| item.visit(&mut Found).is_break())
}

/// No row of a select over nothing ever asks for its subqueries.
fn drop_unreachable(body: &mut SetExpr) {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            drop_unreachable(left);
            drop_unreachable(right);
        }
        SetExpr::Select(select) if reads_nothing(select) && !aggregates_outside_subqueries(select) => {
            for item in &mut select.projection {
                let _ = item.visit(&mut Subqueries);
            }
        }
        _ => {}
    }
}

fn aggregates_outside_subqueries(select: &Select) -> bool {
    let mut copy = select.clone();
    for item in &mut copy.projection {
        let _ = item.visit(&mut Subqueries);
    }
    aggregates(&copy)
}

struct Subqueries;

impl VisitorMut for Subqueries {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let replaced = match expr {
            Expr::Subquery(_) => Some(null()),
            Expr::Exists { .. } => parse_expression("false").ok(),
            Expr::Function(function) if folded(&function.name) == ["array"] => {
                parse_expression("arrow_cast(make_array(), 'List(Utf8)')").ok()
            }
            _ => None,
        };
        if let Some(replaced) = replaced {
            *expr = replaced;
        }
        ControlFlow::Continue(())
    }
}

/// Items without names of their own, and those whose names come twice, get a name.
fn name_items(body: &mut SetExpr) {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            name_items(left);
            name_items(right);
        }
        SetExpr::Select(select) => {
            let mut seen = std::collections::HashSet::new();
            for (place, item) in select.projection.iter_mut().enumerate() {
                let SelectItem::UnnamedExpr(expr) = item else { continue };
                let name = match &*expr {
                    Expr::Identifier(name) => Some(name.value.clone()),
                    Expr::CompoundIdentifier(parts) => parts.last().map(|name| name.value.clone()),
                    _ => None,
                };
                if name.is_some_and(|name| seen.insert(name)) {
                    continue;
                }
                let alias = Ident::new(format!("column_{place}"));
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            }
        }
        _ => {}
    }
}
