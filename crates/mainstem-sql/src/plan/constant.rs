//! Expressions without columns, as values: the default of a column that is added to a table with rows.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, Value, ValueWithSpan};
use mainstem_catalog::{Catalog, SqlType};

use super::relations::Relations;
use super::{check_functions, on_large_stack, optimize};
use crate::arrow_types::arrow_type;
use crate::error::{SqlError, sqlstate};
use crate::parse::{parse_expression, parse_query};
use crate::text::{canonical, column_from_text};

/// The value of an expression, as the type. What depends on the time, or on chance, is an error (`42P17`).
pub fn constant(text: &str, sql_type: &SqlType) -> Result<ScalarValue, SqlError> {
    // A string is read as the type reads it.
    if let SqlExpr::Value(ValueWithSpan { value: Value::SingleQuotedString(string), .. }) = parse_expression(text)? {
        let read = canonical(&column_from_text(&[Some(&string)], sql_type, "")?, sql_type)?;
        return Ok(ScalarValue::try_from_array(&read, 0)?);
    }
    on_large_stack(|| {
        let query = parse_query(&format!("SELECT CAST(({text}) AS {sql_type})"))?;
        let plan = Relations::new(&Catalog::default()).plan(&query)?;
        check_functions(&plan)?;
        let plan = optimize(plan)?;
        let not_constant = || {
            SqlError::new(sqlstate::INVALID_DEFINITION, format!("{text} is not a constant"))
                .with_hint("Give a literal, or an expression of literals.")
        };
        let LogicalPlan::Projection(projection) = plan else { return Err(not_constant()) };
        let [expression] = projection.expr.as_slice() else { return Err(not_constant()) };
        let mut expression = expression;
        while let Expr::Alias(alias) = expression {
            expression = &alias.expr;
        }
        let Expr::Literal(value, _) = expression else { return Err(not_constant()) };
        Ok(value.cast_to(&arrow_type(sql_type))?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_what_is_made_of_them_are_constants() {
        let value = |text: &str, sql_type: SqlType| constant(text, &sql_type).expect(text).to_string();
        assert_eq!(value("7", SqlType::BigInt), "7");
        assert_eq!(value("1 + 2", SqlType::Integer), "3");
        assert_eq!(value("'a' || 'b'", SqlType::Text), "ab");
        assert_eq!(value("NULL", SqlType::Integer), "NULL");
        assert_eq!(value("true", SqlType::Boolean), "true");
        assert_eq!(value("'12'", SqlType::Integer), "12");
        assert_eq!(constant("random()", &SqlType::Double).expect_err("chance").sqlstate, "42P17");
        assert_eq!(constant("now()", &SqlType::Timestamptz).expect_err("time").sqlstate, "42P17");
        assert_eq!(constant("c + 1", &SqlType::Integer).expect_err("a column").sqlstate, "42703");
        assert_eq!(constant("'x'", &SqlType::Integer).expect_err("no number").sqlstate, "22P02");
    }
}
