//! Scalar expressions as plain data.
//!
//! A scalar is stored as a flat list of steps in postfix order, so that a deep expression is no deep JSON. Chains of AND
//! and OR are one node with many arguments, for the same reason.

use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::expr::{Case, Cast, InList, Like, ScalarFunction, TryCast};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator as BinaryOperator, Volatility, lit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Literal, parse_type, type_text};
use crate::error::{SqlError, sqlstate};
use crate::functions;

/// A deterministic expression over the columns of an operator's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// A column of the input.
    Column(usize),
    /// A constant.
    Literal(Literal),
    /// `left op right`, any operator but AND and OR.
    Binary {
        /// DataFusion's operator.
        op: BinaryOperator,
        /// Left side.
        left: Box<Scalar>,
        /// Right side.
        right: Box<Scalar>,
    },
    /// All of at least two, three-valued, evaluated from the left.
    And(Vec<Scalar>),
    /// Any of at least two, three-valued, evaluated from the left.
    Or(Vec<Scalar>),
    /// `NOT x`
    Not(Box<Scalar>),
    /// `-x`
    Negative(Box<Scalar>),
    /// `x IS ...`: never null.
    Is {
        /// What is asked.
        test: IsTest,
        /// Of what.
        argument: Box<Scalar>,
    },
    /// `x [NOT] LIKE | ILIKE pattern [ESCAPE c]`
    Like {
        /// NOT LIKE.
        negated: bool,
        /// ILIKE.
        case_insensitive: bool,
        /// ESCAPE.
        escape: Option<char>,
        /// The string.
        argument: Box<Scalar>,
        /// The pattern.
        pattern: Box<Scalar>,
    },
    /// `x [NOT] SIMILAR TO pattern`
    SimilarTo {
        /// NOT SIMILAR TO.
        negated: bool,
        /// The string.
        argument: Box<Scalar>,
        /// The pattern.
        pattern: Box<Scalar>,
    },
    /// `x [NOT] IN (...)`
    InList {
        /// NOT IN.
        negated: bool,
        /// What is looked for.
        argument: Box<Scalar>,
        /// Where.
        list: Vec<Scalar>,
    },
    /// `CASE [operand] WHEN .. THEN .. [ELSE ..] END`
    Case {
        /// The simple form's operand.
        operand: Option<Box<Scalar>>,
        /// WHEN and THEN.
        branches: Vec<(Scalar, Scalar)>,
        /// ELSE; absent means null.
        otherwise: Option<Box<Scalar>>,
    },
    /// `CAST(x AS t)`, `TRY_CAST(x AS t)`.
    Cast {
        /// Arrow's text of the type.
        to: String,
        /// TRY_CAST: null instead of an error.
        is_try: bool,
        /// What.
        argument: Box<Scalar>,
    },
    /// A function of [`functions::scalar_function`], by its name.
    Function {
        /// Its name in the registry.
        name: String,
        /// Arguments, already of types that the function takes.
        arguments: Vec<Scalar>,
        /// Arrow's text of the result's type.
        result: String,
    },
}

/// `IS ...`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IsTest {
    /// `IS NULL`
    Null,
    /// `IS NOT NULL`
    NotNull,
    /// `IS TRUE`
    True,
    /// `IS NOT TRUE`
    NotTrue,
    /// `IS FALSE`
    False,
    /// `IS NOT FALSE`
    NotFalse,
    /// `IS UNKNOWN`
    Unknown,
    /// `IS NOT UNKNOWN`
    NotUnknown,
}

impl Scalar {
    /// From a planned, type-coerced expression over `input`. What is not deterministic, or not a scalar, is refused by
    /// name.
    pub fn from_expr(expr: &Expr, input: &DFSchema) -> Result<Scalar, SqlError> {
        let boxed = |expr: &Expr| Scalar::from_expr(expr, input).map(Box::new);
        let all = |list: &[Expr]| list.iter().map(|e| Scalar::from_expr(e, input)).collect::<Result<Vec<_>, _>>();
        let is = |test, of: &Expr| Ok(Scalar::Is { test, argument: boxed(of)? });
        match expr {
            Expr::Alias(alias) => Scalar::from_expr(&alias.expr, input),
            Expr::Column(column) => Ok(Scalar::Column(input.index_of_column(column)?)),
            Expr::Literal(value, _) => Ok(Scalar::Literal(Literal::from_value(value)?)),
            Expr::BinaryExpr(BinaryExpr { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. }) => {
                let operands = chain(expr, *op).into_iter().map(|operand| Scalar::from_expr(operand, input));
                let operands = operands.collect::<Result<Vec<_>, _>>()?;
                Ok(if *op == BinaryOperator::And { Scalar::And(operands) } else { Scalar::Or(operands) })
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                Ok(Scalar::Binary { op: *op, left: boxed(left)?, right: boxed(right)? })
            }
            Expr::Not(of) => Ok(Scalar::Not(boxed(of)?)),
            Expr::Negative(of) => Ok(Scalar::Negative(boxed(of)?)),
            Expr::IsNull(of) => is(IsTest::Null, of),
            Expr::IsNotNull(of) => is(IsTest::NotNull, of),
            Expr::IsTrue(of) => is(IsTest::True, of),
            Expr::IsNotTrue(of) => is(IsTest::NotTrue, of),
            Expr::IsFalse(of) => is(IsTest::False, of),
            Expr::IsNotFalse(of) => is(IsTest::NotFalse, of),
            Expr::IsUnknown(of) => is(IsTest::Unknown, of),
            Expr::IsNotUnknown(of) => is(IsTest::NotUnknown, of),
            Expr::Like(like) => Ok(Scalar::Like {
                negated: like.negated,
                case_insensitive: like.case_insensitive,
                escape: like.escape_char,
                argument: boxed(&like.expr)?,
                pattern: boxed(&like.pattern)?,
            }),
            Expr::SimilarTo(Like { escape_char: Some(_), .. }) => {
                Err(SqlError::not_supported("SIMILAR TO with ESCAPE is not supported"))
            }
            Expr::SimilarTo(like) => Ok(Scalar::SimilarTo {
                negated: like.negated,
                argument: boxed(&like.expr)?,
                pattern: boxed(&like.pattern)?,
            }),
            Expr::Between(between) => Scalar::from_between(between, input),
            Expr::InList(InList { expr, list, negated }) => {
                Ok(Scalar::InList { negated: *negated, argument: boxed(expr)?, list: all(list)? })
            }
            Expr::Case(case) => Ok(Scalar::Case {
                operand: case.expr.as_deref().map(boxed).transpose()?,
                branches: case
                    .when_then_expr
                    .iter()
                    .map(|(when, then)| Ok((Scalar::from_expr(when, input)?, Scalar::from_expr(then, input)?)))
                    .collect::<Result<_, SqlError>>()?,
                otherwise: case.else_expr.as_deref().map(boxed).transpose()?,
            }),
            Expr::Cast(Cast { expr, field }) => {
                Ok(Scalar::Cast { to: type_text(field.data_type())?, is_try: false, argument: boxed(expr)? })
            }
            Expr::TryCast(TryCast { expr, field }) => {
                Ok(Scalar::Cast { to: type_text(field.data_type())?, is_try: true, argument: boxed(expr)? })
            }
            Expr::ScalarFunction(function) => Scalar::from_function(function, expr, input),
            other => Err(refuse(other)),
        }
    }

    fn from_between(between: &datafusion::logical_expr::Between, input: &DFSchema) -> Result<Scalar, SqlError> {
        let part = |op, with: &Expr| {
            let left = Box::new(Scalar::from_expr(&between.expr, input)?);
            Ok::<_, SqlError>(Scalar::Binary { op, left, right: Box::new(Scalar::from_expr(with, input)?) })
        };
        if between.negated {
            Ok(Scalar::Or(vec![part(BinaryOperator::Lt, &between.low)?, part(BinaryOperator::Gt, &between.high)?]))
        } else {
            Ok(Scalar::And(vec![part(BinaryOperator::GtEq, &between.low)?, part(BinaryOperator::LtEq, &between.high)?]))
        }
    }

    fn from_function(function: &ScalarFunction, expr: &Expr, input: &DFSchema) -> Result<Scalar, SqlError> {
        use datafusion::logical_expr::ExprSchemable;
        let name = function.func.name();
        functions::check_deterministic(name, function.func.signature().volatility)?;
        debug_assert_eq!(function.func.signature().volatility, Volatility::Immutable);
        if functions::scalar_function(name).is_none() {
            return Err(SqlError::not_supported(format!("function {name} cannot be kept in a view")));
        }
        let arguments = function.args.iter().map(|argument| Scalar::from_expr(argument, input));
        let arguments = arguments.collect::<Result<_, _>>()?;
        Ok(Scalar::Function { name: name.to_owned(), arguments, result: type_text(&expr.get_type(input)?)? })
    }

    /// The expression for DataFusion, over columns named by `names`.
    pub fn to_expr(&self, names: &dyn Fn(usize) -> Column) -> Result<Expr, SqlError> {
        let boxed = |scalar: &Scalar| scalar.to_expr(names).map(Box::new);
        let all = |list: &[Scalar]| list.iter().map(|scalar| scalar.to_expr(names)).collect::<Result<Vec<_>, _>>();
        Ok(match self {
            Scalar::Column(index) => Expr::Column(names(*index)),
            Scalar::Literal(literal) => lit(literal.to_value()?),
            Scalar::Binary { op, left, right } => Expr::BinaryExpr(BinaryExpr::new(boxed(left)?, *op, boxed(right)?)),
            Scalar::And(operands) => balanced(all(operands)?, BinaryOperator::And),
            Scalar::Or(operands) => balanced(all(operands)?, BinaryOperator::Or),
            Scalar::Not(of) => Expr::Not(boxed(of)?),
            Scalar::Negative(of) => Expr::Negative(boxed(of)?),
            Scalar::Is { test, argument } => test.to_expr(boxed(argument)?),
            Scalar::Like { negated, case_insensitive, escape, argument, pattern } => {
                Expr::Like(Like::new(*negated, boxed(argument)?, boxed(pattern)?, *escape, *case_insensitive))
            }
            Scalar::SimilarTo { negated, argument, pattern } => {
                Expr::SimilarTo(Like::new(*negated, boxed(argument)?, boxed(pattern)?, None, false))
            }
            Scalar::InList { negated, argument, list } => {
                Expr::InList(InList::new(boxed(argument)?, all(list)?, *negated))
            }
            Scalar::Case { operand, branches, otherwise } => {
                let branches = branches.iter().map(|(when, then)| Ok((boxed(when)?, boxed(then)?)));
                Expr::Case(Case::new(
                    operand.as_deref().map(boxed).transpose()?,
                    branches.collect::<Result<_, SqlError>>()?,
                    otherwise.as_deref().map(boxed).transpose()?,
                ))
            }
            Scalar::Cast { to, is_try: false, argument } => Expr::Cast(Cast::new(boxed(argument)?, parse_type(to)?)),
            Scalar::Cast { to, is_try: true, argument } => {
                Expr::TryCast(TryCast::new(boxed(argument)?, parse_type(to)?))
            }
            Scalar::Function { name, arguments, .. } => {
                let missing = || SqlError::new(sqlstate::UNDEFINED_FUNCTION, format!("function {name} does not exist"));
                let function = functions::scalar_function(name).ok_or_else(missing)?;
                Expr::ScalarFunction(ScalarFunction::new_udf(function, all(arguments)?))
            }
        })
    }

    /// The parts, in order of evaluation.
    #[must_use]
    pub fn children(&self) -> Vec<&Scalar> {
        match self {
            Scalar::Column(_) | Scalar::Literal(_) => vec![],
            Scalar::Binary { left, right, .. } => vec![left, right],
            Scalar::And(operands) | Scalar::Or(operands) => operands.iter().collect(),
            Scalar::Not(of) | Scalar::Negative(of) => vec![of],
            Scalar::Is { argument, .. } | Scalar::Cast { argument, .. } => vec![argument],
            Scalar::Like { argument, pattern, .. } | Scalar::SimilarTo { argument, pattern, .. } => {
                vec![argument, pattern]
            }
            Scalar::InList { argument, list, .. } => std::iter::once(argument.as_ref()).chain(list).collect(),
            Scalar::Case { operand, branches, otherwise } => operand
                .as_deref()
                .into_iter()
                .chain(branches.iter().flat_map(|(when, then)| [when, then]))
                .chain(otherwise.as_deref())
                .collect(),
            Scalar::Function { arguments, .. } => arguments.iter().collect(),
        }
    }

    /// The columns that are read, each once, in order.
    #[must_use]
    pub fn columns(&self) -> Vec<usize> {
        let mut found = Vec::new();
        let mut stack = vec![self];
        while let Some(scalar) = stack.pop() {
            if let Scalar::Column(index) = scalar {
                found.push(*index);
            }
            stack.extend(scalar.children());
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The same expression with each column replaced by another.
    #[must_use]
    pub fn with_columns(&self, columns: &dyn Fn(usize) -> usize) -> Scalar {
        let mut scalar = self.clone();
        let mut stack = vec![&mut scalar];
        while let Some(scalar) = stack.pop() {
            if let Scalar::Column(index) = scalar {
                *index = columns(*index);
            } else {
                stack.extend(scalar.children_mut());
            }
        }
        scalar
    }

    fn children_mut(&mut self) -> Vec<&mut Scalar> {
        match self {
            Scalar::Column(_) | Scalar::Literal(_) => vec![],
            Scalar::Binary { left, right, .. } => vec![left, right],
            Scalar::And(operands) | Scalar::Or(operands) => operands.iter_mut().collect(),
            Scalar::Not(of) | Scalar::Negative(of) => vec![of],
            Scalar::Is { argument, .. } | Scalar::Cast { argument, .. } => vec![argument],
            Scalar::Like { argument, pattern, .. } | Scalar::SimilarTo { argument, pattern, .. } => {
                vec![argument, pattern]
            }
            Scalar::InList { argument, list, .. } => std::iter::once(argument.as_mut()).chain(list).collect(),
            Scalar::Case { operand, branches, otherwise } => operand
                .as_deref_mut()
                .into_iter()
                .chain(branches.iter_mut().flat_map(|(when, then)| [when, then]))
                .chain(otherwise.as_deref_mut())
                .collect(),
            Scalar::Function { arguments, .. } => arguments.iter_mut().collect(),
        }
    }

    /// For EXPLAIN, with the columns' names.
    #[must_use]
    pub fn describe(&self, names: &dyn Fn(usize) -> String) -> String {
        let text = |scalar: &Scalar| scalar.describe(names);
        let join = |list: &[Scalar], by: &str| list.iter().map(text).collect::<Vec<_>>().join(by);
        match self {
            Scalar::Column(index) => names(*index),
            Scalar::Literal(literal) => describe_literal(literal),
            Scalar::Binary { op, left, right } => format!("({} {op} {})", text(left), text(right)),
            Scalar::And(operands) => format!("({})", join(operands, " AND ")),
            Scalar::Or(operands) => format!("({})", join(operands, " OR ")),
            Scalar::Not(of) => format!("NOT {}", text(of)),
            Scalar::Negative(of) => format!("(- {})", text(of)),
            Scalar::Is { test, argument } => format!("({} IS {})", text(argument), test.text()),
            Scalar::Like { negated, case_insensitive, argument, pattern, .. } => {
                let (not, i) = (if *negated { "NOT " } else { "" }, if *case_insensitive { "I" } else { "" });
                format!("({} {not}{i}LIKE {})", text(argument), text(pattern))
            }
            Scalar::SimilarTo { negated, argument, pattern } => {
                let not = if *negated { "NOT " } else { "" };
                format!("({} {not}SIMILAR TO {})", text(argument), text(pattern))
            }
            Scalar::InList { negated, argument, list } => {
                let not = if *negated { "NOT " } else { "" };
                format!("({} {not}IN ({}))", text(argument), join(list, ", "))
            }
            Scalar::Case { operand, branches, otherwise } => {
                let mut out = String::from("CASE");
                out.extend(operand.iter().map(|operand| format!(" {}", text(operand))));
                out.extend(branches.iter().map(|(when, then)| format!(" WHEN {} THEN {}", text(when), text(then))));
                out.extend(otherwise.iter().map(|otherwise| format!(" ELSE {}", text(otherwise))));
                out + " END"
            }
            Scalar::Cast { to, is_try, argument } => {
                format!("{}CAST({} AS {to})", if *is_try { "TRY_" } else { "" }, text(argument))
            }
            Scalar::Function { name, arguments, result } => {
                match (arguments.as_slice(), functions::integer_operator(name)) {
                    ([left, right], Some(op)) => format!("({} {op} {})", text(left), text(right)),
                    ([of], Some(op)) => format!("({op} {})", text(of)),
                    ([of, _], _) if name == functions::PG_CAST => format!("CAST({} AS {result})", text(of)),
                    _ => format!("{name}({})", join(arguments, ", ")),
                }
            }
        }
    }
}

fn describe_literal(literal: &Literal) -> String {
    use datafusion::common::ScalarValue;
    match literal.to_value() {
        Ok(ScalarValue::Utf8(Some(text))) => format!("'{}'", text.replace('\'', "''")),
        Ok(value) if value.is_null() => "NULL".to_owned(),
        Ok(value @ (ScalarValue::Decimal128(..) | ScalarValue::Decimal256(..))) => value
            .to_array()
            .ok()
            .and_then(|array| arrow::util::display::array_value_to_string(&array, 0).ok())
            .unwrap_or_else(|| value.to_string()),
        Ok(value) => value.to_string(),
        Err(error) => error.message,
    }
}

/// The operands of a chain of one operator, however it is nested, in order.
fn chain(expr: &Expr, op: BinaryOperator) -> Vec<&Expr> {
    let (mut operands, mut stack) = (Vec::new(), vec![expr]);
    while let Some(expr) = stack.pop() {
        match expr {
            Expr::BinaryExpr(binary) if binary.op == op => stack.extend([binary.right.as_ref(), binary.left.as_ref()]),
            other => operands.push(other),
        }
    }
    operands
}

/// A chain as a tree of logarithmic depth, in the same order.
fn balanced(mut operands: Vec<Expr>, op: BinaryOperator) -> Expr {
    while operands.len() > 1 {
        let mut next = Vec::with_capacity(operands.len().div_ceil(2));
        let mut rest = operands.into_iter();
        while let Some(left) = rest.next() {
            next.push(match rest.next() {
                Some(right) => Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))),
                None => left,
            });
        }
        operands = next;
    }
    operands.pop().unwrap_or_else(|| lit(op == BinaryOperator::And))
}

fn refuse(expr: &Expr) -> SqlError {
    let what = match expr {
        Expr::AggregateFunction(function) => format!("aggregate function {}() in this place", function.func.name()),
        Expr::WindowFunction(_) => "OVER windows are not incremental yet".to_owned(),
        Expr::Exists(_) => "EXISTS in this place".to_owned(),
        Expr::InSubquery(_) => "IN (subquery) in this place".to_owned(),
        Expr::SetComparison(_) => "ANY or ALL of a subquery".to_owned(),
        Expr::ScalarSubquery(_) => "a scalar subquery in this place".to_owned(),
        Expr::OuterReferenceColumn(..) => "a correlated subquery of this form".to_owned(),
        Expr::GroupingSet(_) => "GROUPING SETS, ROLLUP and CUBE".to_owned(),
        Expr::Placeholder(placeholder) => {
            return SqlError::new("42P02", format!("there is no parameter {}", placeholder.id));
        }
        Expr::Unnest(_) => "unnest() in this place".to_owned(),
        Expr::HigherOrderFunction(function) => format!("function {}() with a lambda", function.name()),
        Expr::Lambda(_) | Expr::LambdaVariable(_) => "a lambda".to_owned(),
        Expr::ScalarVariable(_, names) => format!("variable {}", names.join(".")),
        _ => format!("expression {expr}"),
    };
    let message = if what.ends_with("yet") { what } else { format!("{what} is not incremental yet") };
    SqlError::not_supported(message).with_hint("It can be used in a SELECT.")
}

impl IsTest {
    fn to_expr(self, of: Box<Expr>) -> Expr {
        match self {
            IsTest::Null => Expr::IsNull(of),
            IsTest::NotNull => Expr::IsNotNull(of),
            IsTest::True => Expr::IsTrue(of),
            IsTest::NotTrue => Expr::IsNotTrue(of),
            IsTest::False => Expr::IsFalse(of),
            IsTest::NotFalse => Expr::IsNotFalse(of),
            IsTest::Unknown => Expr::IsUnknown(of),
            IsTest::NotUnknown => Expr::IsNotUnknown(of),
        }
    }

    /// SQL's word.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            IsTest::Null => "NULL",
            IsTest::NotNull => "NOT NULL",
            IsTest::True => "TRUE",
            IsTest::NotTrue => "NOT TRUE",
            IsTest::False => "FALSE",
            IsTest::NotFalse => "NOT FALSE",
            IsTest::Unknown => "UNKNOWN",
            IsTest::NotUnknown => "NOT UNKNOWN",
        }
    }
}

/// One step of the stored form: takes its arguments from the stack, puts its result on it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Column(usize),
    Literal(Literal),
    Binary(String),
    And(usize),
    Or(usize),
    Not,
    Negative,
    Is(IsTest),
    Like { negated: bool, case_insensitive: bool, escape: Option<char> },
    SimilarTo { negated: bool },
    InList { negated: bool, items: usize },
    Case { operand: bool, branches: usize, otherwise: bool },
    Cast { to: String, is_try: bool },
    Function { name: String, arguments: usize, result: String },
}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Parents before children, last child first; reversed, that is postfix.
        let (mut steps, mut stack) = (Vec::new(), vec![self]);
        while let Some(scalar) = stack.pop() {
            steps.push(step(scalar));
            stack.extend(scalar.children());
        }
        steps.reverse();
        steps.serialize(serializer)
    }
}

fn step(scalar: &Scalar) -> Step {
    match scalar {
        Scalar::Column(index) => Step::Column(*index),
        Scalar::Literal(literal) => Step::Literal(literal.clone()),
        Scalar::Binary { op, .. } => Step::Binary(op.to_string()),
        Scalar::And(operands) => Step::And(operands.len()),
        Scalar::Or(operands) => Step::Or(operands.len()),
        Scalar::Not(_) => Step::Not,
        Scalar::Negative(_) => Step::Negative,
        Scalar::Is { test, .. } => Step::Is(*test),
        Scalar::Like { negated, case_insensitive, escape, .. } => {
            Step::Like { negated: *negated, case_insensitive: *case_insensitive, escape: *escape }
        }
        Scalar::SimilarTo { negated, .. } => Step::SimilarTo { negated: *negated },
        Scalar::InList { negated, list, .. } => Step::InList { negated: *negated, items: list.len() },
        Scalar::Case { operand, branches, otherwise } => {
            Step::Case { operand: operand.is_some(), branches: branches.len(), otherwise: otherwise.is_some() }
        }
        Scalar::Cast { to, is_try, .. } => Step::Cast { to: to.clone(), is_try: *is_try },
        Scalar::Function { name, arguments, result } => {
            Step::Function { name: name.clone(), arguments: arguments.len(), result: result.clone() }
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        use serde::de::Error;
        let mut stack = Stack(Vec::new());
        for step in Vec::<Step>::deserialize(deserializer)? {
            let scalar = stack.build(step).map_err(D::Error::custom)?;
            stack.0.push(scalar);
        }
        match (stack.0.pop(), stack.0.is_empty()) {
            (Some(scalar), true) => Ok(scalar),
            _ => Err(D::Error::custom("steps of a scalar do not end in one value")),
        }
    }
}

struct Stack(Vec<Scalar>);

impl Stack {
    fn take(&mut self, count: usize) -> Result<Vec<Scalar>, String> {
        let start = self.0.len().checked_sub(count).ok_or("a step of a scalar lacks arguments")?;
        Ok(self.0.split_off(start))
    }

    fn one(&mut self) -> Result<Box<Scalar>, String> {
        self.0.pop().map(Box::new).ok_or_else(|| "a step of a scalar lacks its argument".to_owned())
    }

    fn build(&mut self, step: Step) -> Result<Scalar, String> {
        Ok(match step {
            Step::Column(index) => Scalar::Column(index),
            Step::Literal(literal) => Scalar::Literal(literal),
            Step::Binary(op) => {
                let op = binary_operator(&op).ok_or_else(|| format!("no operator {op}"))?;
                let (right, left) = (self.one()?, self.one()?);
                Scalar::Binary { op, left, right }
            }
            Step::And(count) => Scalar::And(self.take(count)?),
            Step::Or(count) => Scalar::Or(self.take(count)?),
            Step::Not => Scalar::Not(self.one()?),
            Step::Negative => Scalar::Negative(self.one()?),
            Step::Is(test) => Scalar::Is { test, argument: self.one()? },
            Step::Like { negated, case_insensitive, escape } => {
                let (pattern, argument) = (self.one()?, self.one()?);
                Scalar::Like { negated, case_insensitive, escape, argument, pattern }
            }
            Step::SimilarTo { negated } => {
                let (pattern, argument) = (self.one()?, self.one()?);
                Scalar::SimilarTo { negated, argument, pattern }
            }
            Step::InList { negated, items } => {
                let list = self.take(items)?;
                Scalar::InList { negated, argument: self.one()?, list }
            }
            Step::Case { operand, branches, otherwise } => {
                let otherwise = if otherwise { Some(self.one()?) } else { None };
                let mut parts = self.take(branches * 2)?.into_iter();
                let mut pairs = Vec::with_capacity(branches);
                while let (Some(when), Some(then)) = (parts.next(), parts.next()) {
                    pairs.push((when, then));
                }
                let operand = if operand { Some(self.one()?) } else { None };
                Scalar::Case { operand, branches: pairs, otherwise }
            }
            Step::Cast { to, is_try } => Scalar::Cast { to, is_try, argument: self.one()? },
            Step::Function { name, arguments, result } => {
                Scalar::Function { name, arguments: self.take(arguments)?, result }
            }
        })
    }
}

fn binary_operator(text: &str) -> Option<BinaryOperator> {
    use BinaryOperator as O;
    const ALL: [O; 37] = [
        O::Eq,
        O::NotEq,
        O::Lt,
        O::LtEq,
        O::Gt,
        O::GtEq,
        O::Plus,
        O::Minus,
        O::Multiply,
        O::Divide,
        O::Modulo,
        O::IsDistinctFrom,
        O::IsNotDistinctFrom,
        O::RegexMatch,
        O::RegexIMatch,
        O::RegexNotMatch,
        O::RegexNotIMatch,
        O::LikeMatch,
        O::ILikeMatch,
        O::NotLikeMatch,
        O::NotILikeMatch,
        O::BitwiseAnd,
        O::BitwiseOr,
        O::BitwiseXor,
        O::BitwiseShiftRight,
        O::BitwiseShiftLeft,
        O::StringConcat,
        O::AtArrow,
        O::ArrowAt,
        O::Arrow,
        O::LongArrow,
        O::HashArrow,
        O::HashLongArrow,
        O::IntegerDivide,
        O::Question,
        O::QuestionAnd,
        O::QuestionPipe,
    ];
    ALL.into_iter().find(|op| op.to_string() == text)
}

#[cfg(test)]
mod tests;
