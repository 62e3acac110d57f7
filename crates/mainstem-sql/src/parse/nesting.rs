//! Statements nested too deeply are an error, never a stack overflow.
//!
//! A text is read on a stack that is large enough for its operators. What comes out is shallow: doubled parentheses are
//! one, long chains of AND and OR are trees of logarithmic depth, and whatever is still deeper than [`DEPTH_MAX`] is refused.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Query, Value, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::SqlError;

/// Levels of expressions and queries within one another.
pub(crate) const DEPTH_MAX: usize = 300;
/// Levels of parentheses, brackets and braces.
const PARENTHESES_MAX: usize = 3_000;
/// Operators and keywords in a row without a comma, over all open parentheses: a bound on the depth of the tree.
const OPERATORS_MAX: usize = 60_000;
/// Statements shorter than this cannot be deep enough to need a larger stack.
const SHORT_BYTES: usize = 1_500;
/// For all others; only what is used of it costs memory.
const STACK_BYTES: usize = 512 << 20;

/// Runs `work` on a stack that is large enough for a text of this length.
pub(crate) fn with_deep_stack<T: Send>(text_bytes: usize, work: impl FnOnce() -> T + Send) -> T {
    if text_bytes < SHORT_BYTES {
        return work();
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("sql".into()).stack_size(STACK_BYTES);
        let handle = thread.spawn_scoped(scope, work).expect("a thread can be started");
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Refuses tokens that could give a tree deeper than the stack.
pub(crate) fn check_tokens(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    let (mut open, mut here, mut total) = (Vec::new(), 0usize, 0usize);
    for token in tokens {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => open.push(std::mem::take(&mut here)),
            Token::RParen | Token::RBracket | Token::RBrace => {
                total -= here;
                here = open.pop().unwrap_or(0) + 1;
                total += 1;
            }
            Token::Comma | Token::SemiColon => {
                total -= here;
                here = 0;
            }
            Token::Word(word) if word.keyword == Keyword::NoKeyword => {}
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Whitespace(_) | Token::Period => {}
            _ => {
                here += 1;
                total += 1;
            }
        }
        if open.len() > PARENTHESES_MAX || total > OPERATORS_MAX {
            return Err(SqlError::too_complex());
        }
    }
    Ok(())
}

/// Makes a statement or a part of one shallow, or refuses it.
pub(crate) fn flatten<T: VisitMut>(node: &mut T) -> Result<(), SqlError> {
    match node.visit(&mut Flatten { depth: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(SqlError::too_complex()),
    }
}

struct Flatten {
    depth: usize,
}

impl Flatten {
    fn down(&mut self) -> ControlFlow<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn up(&mut self) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

impl VisitorMut for Flatten {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.down()
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.up()
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        while let Expr::Nested(inner) = expr {
            match inner.as_mut() {
                Expr::Nested(_) | Expr::Identifier(_) | Expr::Value(_) => *expr = take(inner),
                _ => break,
            }
        }
        if let Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), left, .. } = expr {
            let op = op.clone();
            // A chain is balanced once, at its top: below there, no side is deeper than the other by more than one.
            if matches!(left.as_ref(), Expr::BinaryOp { op: below, .. } if *below == op) {
                balance(expr, &op);
            }
        }
        self.down()
    }

    fn post_visit_expr(&mut self, _: &mut Expr) -> ControlFlow<()> {
        self.up()
    }
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Value(Value::Null.into()))
}

fn balance(expr: &mut Expr, op: &BinaryOperator) {
    let (mut operands, mut stack) = (Vec::new(), vec![take(expr)]);
    while let Some(next) = stack.pop() {
        match next {
            Expr::BinaryOp { left, op: below, right } if below == *op => stack.extend([*right, *left]),
            operand => operands.push(operand),
        }
    }
    while operands.len() > 1 {
        let mut next = Vec::with_capacity(operands.len().div_ceil(2));
        let mut rest = operands.into_iter();
        while let Some(left) = rest.next() {
            next.push(match rest.next() {
                Some(right) => Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) },
                None => left,
            });
        }
        operands = next;
    }
    if let Some(root) = operands.pop() {
        *expr = root;
    }
}
