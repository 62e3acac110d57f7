//! Parameters of statements: their types, and how their values go into a statement.
//!
//! A query is planned with the values of its parameters as typed literals, so that a parameter means what a literal means:
//! in LIMIT, in the arguments of functions, everywhere. A write gets them as values.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{Expr, LimitClause, Query, Value, ValueWithSpan, VisitMut, VisitorMut};
use mainstem_catalog::SqlType;
use mainstem_sql::arrow_types::arrow_type;
use mainstem_sql::statement::{Subscribe, SubscribeTarget};
use mainstem_sql::{SqlError, Statement, parse_expression};

use crate::session::{Response, Session};
use crate::values::{column_from_text, literal_text, write_text};

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its text; `None` is null.
    pub text: Option<String>,
    /// Its type. Text stands for a value of any type, as a literal in quotes does.
    pub sql_type: SqlType,
}

/// What a statement takes and gives.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Types of `$1`, `$2`, ...
    pub parameters: Vec<SqlType>,
    /// Its columns; `None` if it gives no rows.
    pub schema: Option<SchemaRef>,
}

impl Parameter {
    /// The value for DataFusion.
    pub(crate) fn scalar(&self) -> Result<ScalarValue, SqlError> {
        let array = column_from_text(&[self.text.as_deref()], &self.sql_type, "parameter")?;
        Ok(ScalarValue::try_from_array(&array, 0)?)
    }

    fn literal(&self) -> Result<Expr, SqlError> {
        let array = column_from_text(&[self.text.as_deref()], &self.sql_type, "parameter")?;
        parse_expression(&literal(&array, 0, &self.sql_type)?)
    }
}

/// SQL text of a value that is of this type in any place.
fn literal(array: &ArrayRef, row: usize, sql_type: &SqlType) -> Result<String, SqlError> {
    let Some(text) = write_text(array, row, sql_type)? else {
        return Ok(match sql_type {
            SqlType::Text | SqlType::Jsonb | SqlType::Uuid => "NULL".to_owned(),
            _ => format!("arrow_cast(NULL, {})", literal_text(&arrow_type(sql_type).to_string())),
        });
    };
    let quoted = literal_text(&text);
    Ok(match sql_type {
        SqlType::Text | SqlType::Jsonb | SqlType::Uuid => quoted,
        SqlType::Bytea => format!("decode('{}', 'hex')", text.trim_start_matches("\\x")),
        SqlType::Interval => format!("INTERVAL {quoted}"),
        SqlType::List(item) => {
            let items = array.as_list::<i32>().value(row);
            let texts: Result<Vec<_>, _> = (0..items.len()).map(|i| literal(&items, i, item)).collect();
            let cast = literal_text(&arrow_type(sql_type).to_string());
            format!("arrow_cast(make_array({}), {cast})", texts?.join(", "))
        }
        _ => format!("arrow_cast({quoted}, {})", literal_text(&arrow_type(sql_type).to_string())),
    })
}

/// The query with values in place of its parameters.
pub(crate) fn bound(query: &Query, parameters: &[Parameter]) -> Result<Query, SqlError> {
    let literals = parameters.iter().map(Parameter::literal).collect::<Result<Vec<_>, _>>()?;
    let mut query = query.clone();
    match query.visit(&mut Bind { literals: &literals }) {
        ControlFlow::Continue(()) => Ok(query),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Bind<'l> {
    literals: &'l [Expr],
}

impl VisitorMut for Bind<'_> {
    type Break = SqlError;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        let Some(number) = placeholder(expr) else { return ControlFlow::Continue(()) };
        match number.checked_sub(1).and_then(|index| self.literals.get(index)) {
            Some(literal) => {
                *expr = literal.clone();
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(SqlError::new("42P02", format!("there is no parameter ${number}"))),
        }
    }
}

fn placeholder(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) => name.strip_prefix('$')?.parse().ok(),
        _ => None,
    }
}

/// The highest number of a parameter, and those that are a LIMIT or OFFSET: whole numbers, which planning does not tell.
fn parameters_in(query: &Query) -> (usize, BTreeMap<usize, SqlType>) {
    struct Highest(usize, BTreeMap<usize, SqlType>);
    impl datafusion::sql::sqlparser::ast::Visitor for Highest {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            let counts = match &query.limit_clause {
                Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                    [limit.as_ref(), offset.as_ref().map(|offset| &offset.value)]
                }
                Some(LimitClause::OffsetCommaLimit { offset, limit }) => [Some(offset), Some(limit)],
                None => [None, None],
            };
            let fetched = query.fetch.as_ref().and_then(|fetch| fetch.quantity.as_ref());
            let numbers = counts.into_iter().flatten().chain(fetched).filter_map(placeholder);
            self.1.extend(numbers.map(|number| (number, SqlType::BigInt)));
            ControlFlow::Continue(())
        }
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            self.0 = self.0.max(placeholder(expr).unwrap_or(0));
            ControlFlow::Continue(())
        }
    }
    let mut highest = Highest(0, BTreeMap::new());
    let _ = datafusion::sql::sqlparser::ast::Visit::visit(query, &mut highest);
    (highest.0, highest.1)
}

impl Session {
    /// What a statement takes and gives, without running it. `given` are types that the client names, as far as it does.
    pub async fn describe(&self, statement: &Statement, given: &[Option<SqlType>]) -> Result<Description, SqlError> {
        match statement {
            Statement::Query(query) => Box::pin(self.describe_query(query, given)).await,
            Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
                let plan = self.write_plan(statement, &[])?;
                let described = self.shared.tables.describe(&plan).await?;
                let found: BTreeMap<usize, SqlType> = described
                    .parameters
                    .iter()
                    .map(|(number, data_type)| (*number, mainstem_sql::arrow_types::sql_type_of(data_type)))
                    .collect();
                let count = found.keys().next_back().copied().unwrap_or(0);
                Ok(Description { parameters: resolved(given, &found, count), schema: described.returning })
            }
            Statement::Explain(explain) => {
                let mut described = Box::pin(self.describe(&explain.statement, given)).await.unwrap_or_default();
                described.schema = Some(crate::explain::schema());
                Ok(described)
            }
            Statement::Execute { name, .. } => {
                let (statement, types) = self.prepared_statement(name)?;
                let schema = Box::pin(self.describe(&statement, &types)).await?.schema;
                Ok(Description { parameters: vec![], schema })
            }
            Statement::Subscribe(subscribe) => Box::pin(self.describe_subscription(subscribe, given)).await,
            Statement::Declare { statement, .. } => {
                let described = Box::pin(self.describe(statement, given)).await?;
                Ok(Description { parameters: described.parameters, schema: None })
            }
            Statement::Fetch { name, is_move: false, .. } => {
                Ok(Description { parameters: vec![], schema: self.cursor_schema(name) })
            }
            other => Ok(Description { parameters: vec![], schema: self.shown_schema(other) }),
        }
    }

    async fn describe_subscription(
        &self,
        subscribe: &Subscribe,
        given: &[Option<SqlType>],
    ) -> Result<Description, SqlError> {
        let parameters = match &subscribe.target {
            SubscribeTarget::Relation(_) => vec![],
            SubscribeTarget::Query(query) => self.describe_query(query, given).await?.parameters,
        };
        let nulls = nulls(&parameters);
        Ok(Description { schema: Some(self.subscription_schema(subscribe, &nulls)?), parameters })
    }

    async fn describe_query(&self, query: &Query, given: &[Option<SqlType>]) -> Result<Description, SqlError> {
        let (highest, mut found) = parameters_in(query);
        let count = highest.max(given.len());
        if (0..count).any(|index| given.get(index).is_none_or(Option::is_none)) {
            // Those that are known stand in already, so that they tell the types of others.
            let planned = self.planned(query).await?;
            for (name, data_type) in planned.plan.get_parameter_types()? {
                let number = name.trim_start_matches('$').parse::<usize>().ok();
                if let (Some(number), Some(data_type)) = (number, data_type)
                    && !data_type.is_null()
                {
                    found.insert(number, mainstem_sql::arrow_types::sql_type_of(&data_type));
                }
            }
        }
        let parameters = resolved(given, &found, count);
        let query = bound(query, &nulls(&parameters))?;
        let planned = self.planned(&query).await?;
        Ok(Description { parameters, schema: Some(planned.schema) })
    }

    pub(crate) fn prepare(
        &mut self,
        name: &str,
        types: &[SqlType],
        statement: &Statement,
    ) -> Result<Response, SqlError> {
        if self.prepared.contains_key(name) {
            return Err(SqlError::new("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        let types = types.iter().cloned().map(Some).collect();
        self.prepared.insert(name.to_owned(), (statement.clone(), types));
        Ok(Response::done("PREPARE"))
    }

    pub(crate) fn deallocate(&mut self, name: Option<&str>) -> Result<Response, SqlError> {
        match name {
            None => {
                self.prepared.clear();
                Ok(Response::done("DEALLOCATE ALL"))
            }
            Some(name) => {
                self.prepared_statement(name)?;
                self.prepared.remove(name);
                Ok(Response::done("DEALLOCATE"))
            }
        }
    }

    fn prepared_statement(&self, name: &str) -> Result<(Statement, Vec<Option<SqlType>>), SqlError> {
        let missing = || SqlError::new("26000", format!("prepared statement \"{name}\" does not exist"));
        self.prepared.get(name).cloned().ok_or_else(missing)
    }

    pub(crate) async fn execute_prepared(&mut self, name: &str, values: &[Expr]) -> Result<Response, SqlError> {
        let (statement, types) = self.prepared_statement(name)?;
        let described = Box::pin(self.describe(&statement, &types)).await?;
        if described.parameters.len() != values.len() {
            let message = format!("wrong number of parameters for prepared statement \"{name}\"");
            let detail = format!("Expected {} parameters but got {}.", described.parameters.len(), values.len());
            return Err(SqlError::new("42601", message).with_detail(detail));
        }
        let mut parameters = Vec::new();
        for (value, sql_type) in values.iter().zip(described.parameters) {
            parameters.push(Parameter { text: self.constant_text(value).await?, sql_type });
        }
        Box::pin(self.execute(&statement, &parameters)).await
    }

    /// The text of an expression without columns.
    async fn constant_text(&self, value: &Expr) -> Result<Option<String>, SqlError> {
        let query = mainstem_sql::parse_query(&format!("SELECT {value}"))?;
        let planned = self.planned(&query).await?;
        let schema: SchemaRef = Arc::new(planned.plan.schema().as_arrow().clone());
        let frame = planned.context.execute_logical_plan(planned.plan).await?;
        let batches = frame.collect().await.map_err(mainstem_engine::batch::query_error)?;
        let batch = batches.into_iter().find(|batch| batch.num_rows() > 0);
        let batch = batch.ok_or_else(|| SqlError::new("XX000", "an expression gave no value"))?;
        write_text(batch.column(0), 0, &mainstem_sql::sql_type(schema.field(0)))
    }
}

fn nulls(types: &[SqlType]) -> Vec<Parameter> {
    types.iter().map(|sql_type| Parameter { text: None, sql_type: sql_type.clone() }).collect()
}

fn resolved(given: &[Option<SqlType>], found: &BTreeMap<usize, SqlType>, count: usize) -> Vec<SqlType> {
    let one = |index: usize| {
        let named = given.get(index).cloned().flatten();
        named.or_else(|| found.get(&(index + 1)).cloned()).unwrap_or(SqlType::Text)
    };
    (0..count.max(given.len())).map(one).collect()
}
