//! Expressions that DataFusion reads otherwise than PostgreSQL, as others that mean in both what PostgreSQL means.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, DateTimeField, ExactNumberInfo, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, Interval, ObjectName, UnaryOperator, Value, ValueWithSpan,
};
use mainstem_formats::parse_interval;

use crate::error::{SqlError, sqlstate};
use crate::functions::{SIMILAR_TO_ESCAPE, TIMEZONE, list_function};
use crate::parse::fold;

/// Digits that a double always keeps.
const DOUBLE_DIGITS: usize = 15;
/// Digits of a numeric.
const NUMERIC_DIGITS: usize = 38;

/// Functions under PostgreSQL's name and DataFusion's.
const RENAMED: [(&str, &str); 5] =
    [("sign", "signum"), ("ceiling", "ceil"), ("variance", "var_samp"), ("every", "bool_and"), ("pow", "power")];

/// Rewrites one expression whose parts are rewritten already.
pub(super) fn rewrite_expression(expr: &mut Expr) -> Result<(), SqlError> {
    match expr {
        Expr::AtTimeZone { timestamp, time_zone } => {
            *expr = call(TIMEZONE, vec![take(time_zone), take(timestamp)]);
        }
        Expr::SimilarTo { negated, expr: of, pattern, escape_char } => {
            let op = if *negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
            let escape = escape_char.take().map(Expr::Value);
            let pattern = call(SIMILAR_TO_ESCAPE, [Some(take(pattern)), escape].into_iter().flatten().collect());
            *expr = nested(binary(take(of), op, pattern));
        }
        Expr::Extract { field, expr: of, .. } => {
            if let Some(micros) = micros_of(&field.to_string()) {
                *expr = part_of_minute(take(of), micros);
            } else if matches!(field, DateTimeField::Custom(name) if fold(name) == "isoyear") {
                *field = DateTimeField::Isoyear;
            }
        }
        Expr::Function(function) => {
            if let Some(other) = rewrite_function(function) {
                *expr = other;
            }
        }
        Expr::Interval(interval) => normalize_interval(interval)?,
        Expr::BinaryOp { left, op: BinaryOperator::PGExp, right } => {
            *expr = call("power", vec![take(left), take(right)]);
        }
        Expr::BinaryOp { left, op, right } => {
            if let (Expr::Tuple(left), Expr::Tuple(right)) = (left.as_ref(), right.as_ref())
                && let Some(compared) = compare_rows(left, op, right)
            {
                *expr = compared;
            }
        }
        Expr::InList { expr: of, list, negated } => {
            if let Expr::Tuple(row) = of.as_ref() {
                let equal = |item: &Expr| match item {
                    Expr::Tuple(item) => compare_rows(row, &BinaryOperator::Eq, item),
                    _ => None,
                };
                if let Some(any) = list.iter().map(equal).collect::<Option<Vec<_>>>().and_then(|all| {
                    all.into_iter().reduce(|left, right| nested(binary(left, BinaryOperator::Or, right)))
                }) {
                    *expr = match *negated {
                        true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(any) },
                        false => any,
                    };
                }
            }
        }
        Expr::UnaryOp { op: UnaryOperator::BitwiseNot, expr: of } => {
            *expr = nested(binary(take(of), BinaryOperator::PGBitwiseXor, number("-1")));
        }
        Expr::UnaryOp { op: UnaryOperator::PGAbs, expr: of } => *expr = call("abs", vec![take(of)]),
        Expr::UnaryOp { op: UnaryOperator::PGSquareRoot, expr: of } => *expr = call("sqrt", vec![take(of)]),
        Expr::UnaryOp { op: UnaryOperator::PGCubeRoot, expr: of } => *expr = call("cbrt", vec![take(of)]),
        Expr::Value(value) => {
            if let Value::Number(text, _) = &value.value
                && let Some(info) = exact_number(text)
            {
                *expr = Expr::Cast {
                    kind: CastKind::Cast,
                    expr: Box::new(Expr::Value(Value::SingleQuotedString(text.clone()).into())),
                    data_type: DataType::Numeric(info),
                    array: false,
                    format: None,
                };
            }
        }
        _ => {}
    }
    Ok(())
}

/// `(a, b) < (c, d)` by the rules for rows: null where the parts that decide are. None for other operators.
fn compare_rows(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Option<Expr> {
    use BinaryOperator as B;
    if left.len() != right.len() {
        return None;
    }
    let pair = |place: usize, op: B| nested(binary(left[place].clone(), op, right[place].clone()));
    let chain = |op: B, with: B| {
        (0..left.len()).map(|place| pair(place, op.clone())).reduce(|a, b| nested(binary(a, with.clone(), b)))
    };
    let strict = match op {
        B::Eq => return chain(B::Eq, B::And),
        B::NotEq => return chain(B::NotEq, B::Or),
        B::Lt | B::LtEq => B::Lt,
        B::Gt | B::GtEq => B::Gt,
        _ => return None,
    };
    // The last parts by the operator itself, those before by the strict one.
    let last = left.len().checked_sub(1)?;
    let mut decided = pair(last, op.clone());
    for place in (0..last).rev() {
        let rest = nested(binary(pair(place, B::Eq), B::And, decided));
        decided = nested(binary(pair(place, strict.clone()), B::Or, rest));
    }
    Some(decided)
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Value(ValueWithSpan::from(Value::Null)))
}

fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn number(text: &str) -> Expr {
    match text.strip_prefix('-') {
        Some(rest) => Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(number(rest)) },
        None => Expr::Value(Value::Number(text.to_owned(), false).into()),
    }
}

pub(super) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

/// How many microseconds the unit of a field has whose fraction PostgreSQL keeps, and DataFusion cuts.
fn micros_of(field: &str) -> Option<&'static str> {
    match field.to_ascii_lowercase().as_str() {
        "second" | "seconds" => Some("1000000.0"),
        "millisecond" | "milliseconds" => Some("1000.0"),
        _ => None,
    }
}

fn part_of_minute(of: Expr, micros: &str) -> Expr {
    let field = Expr::Value(Value::SingleQuotedString("microsecond".to_owned()).into());
    nested(binary(call("date_part", vec![field, of]), BinaryOperator::Divide, number(micros)))
}

fn rewrite_function(function: &mut Function) -> Option<Expr> {
    let [name] = function.name.0.as_slice() else { return None };
    let name = fold(name.as_ident()?);
    if let Some((_, other)) = RENAMED.iter().find(|(known, _)| *known == name) {
        function.name = ObjectName::from(vec![Ident::new(*other)]);
        return None;
    }
    if let Some(list) = list_function(&name) {
        function.name = ObjectName::from(vec![Ident::new(list)]);
        return Some(call("unnest", vec![Expr::Function(function.clone())]));
    }
    let FunctionArguments::List(list) = &mut function.args else { return None };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(first)), FunctionArg::Unnamed(FunctionArgExpr::Expr(second))] =
        list.args.as_mut_slice()
    else {
        return None;
    };
    match name.as_str() {
        "mod" => Some(nested(binary(take(first), BinaryOperator::Modulo, take(second)))),
        "date_part" => {
            let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(field), .. }) = first else { return None };
            let micros = micros_of(field)?;
            Some(part_of_minute(take(second), micros))
        }
        _ => None,
    }
}

/// PostgreSQL's and ISO's clock and period forms, in the words that all readers of intervals know.
fn normalize_interval(interval: &mut Interval) -> Result<(), SqlError> {
    let Interval { value, leading_field: None, last_field: None, .. } = interval else { return Ok(()) };
    let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) = value.as_mut() else {
        return Ok(());
    };
    let is_special = text.contains(':') || text.trim_start().starts_with(['P', 'p', '@']) || text.ends_with("ago");
    if !is_special {
        return Ok(());
    }
    let parsed = parse_interval(text.trim()).ok_or_else(|| {
        SqlError::new(sqlstate::INVALID_DATETIME, format!("invalid input syntax for type interval: \"{text}\""))
    })?;
    *text = format!("{} months {} days {} nanoseconds", parsed.months, parsed.days, parsed.nanoseconds);
    Ok(())
}

/// Precision and scale of a number that a double may not keep and a numeric does.
fn exact_number(text: &str) -> Option<ExactNumberInfo> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || text.parse::<u64>().is_ok() {
        return None;
    }
    let whole = whole.trim_start_matches('0').len();
    let precision = (whole + fraction.len()).max(1);
    let significant = whole + if whole == 0 { fraction.trim_start_matches('0').len() } else { fraction.len() };
    if significant <= DOUBLE_DIGITS || precision > NUMERIC_DIGITS {
        return None;
    }
    Some(ExactNumberInfo::PrecisionAndScale(precision as u64, fraction.len() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_that_a_double_may_not_keep_are_numerics() {
        use ExactNumberInfo::PrecisionAndScale;
        assert_eq!(exact_number("0.1"), None);
        assert_eq!(exact_number("123456789.012345"), None);
        assert_eq!(exact_number("1234567890.0123456"), Some(PrecisionAndScale(17, 7)));
        assert_eq!(exact_number("0.0000000000000000001"), None);
        assert_eq!(exact_number("18446744073709551615"), None, "DataFusion reads unsigned integers");
        assert_eq!(exact_number("18446744073709551616"), Some(PrecisionAndScale(20, 0)));
        assert_eq!(exact_number("1e30"), None);
    }
}
