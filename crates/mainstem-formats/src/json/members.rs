//! From member names to columns, for one object schema.
//!
//! Records of one producer have their members in one order, so the name at each position is first compared with the one
//! that stood there before; only a difference costs a look-up. Names are compared as written, escapes included, which is
//! right in both directions because equal spelling means equal name.

use std::collections::HashMap;

use super::scan::{Malformed, Scanner, Token, TokenKind, unescape};

/// Members beyond this position are always looked up, so that strange records cannot grow the table.
const GUESSES_MAX: usize = 512;
/// Longer names are not remembered.
const GUESS_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    column: usize,
    is_exact: bool,
}

#[derive(Debug, Default)]
struct Guess {
    name: String,
    target: Option<Target>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    token: Token,
    is_exact: bool,
}

#[derive(Debug)]
pub(crate) struct Members {
    exact: HashMap<String, usize>,
    folded: HashMap<String, usize>,
    guesses: Vec<Guess>,
    slots: Vec<Slot>,
}

impl Members {
    pub(crate) fn new<'n>(names: impl Iterator<Item = &'n String>) -> Self {
        let (mut exact, mut folded, mut slots) = (HashMap::new(), HashMap::new(), Vec::new());
        for (column, name) in names.enumerate() {
            exact.entry(name.clone()).or_insert(column);
            folded.entry(name.to_lowercase()).or_insert(column);
            slots.push(Slot { token: Token::MISSING, is_exact: false });
        }
        Self { exact, folded, guesses: Vec::new(), slots }
    }

    /// Notes the members of the object that `scanner`, over `text`, stands at. Of equal names the last one counts; a
    /// name in the column's own case counts before those in another case.
    pub(crate) fn read(&mut self, text: &str, scanner: &mut Scanner<'_>, depth: usize) -> Result<(), Malformed> {
        let Self { exact, folded, guesses, slots } = self;
        slots.fill(Slot { token: Token::MISSING, is_exact: false });
        let mut position = 0;
        scanner.object(depth, |name, value| {
            let spelling = name.of(text);
            let target = match guesses.get(position) {
                Some(guess) if guess.name == spelling => guess.target,
                _ => {
                    let target = look_up(exact, folded, name, spelling);
                    remember(guesses, position, spelling, target);
                    target
                }
            };
            position += 1;
            if let Some(Target { column, is_exact }) = target
                && let Some(slot) = slots.get_mut(column)
                && (is_exact || !slot.is_exact)
            {
                *slot = Slot { token: value, is_exact };
            }
        })
    }

    /// What the last `read` noted for `column`.
    pub(crate) fn token(&self, column: usize) -> Token {
        self.slots[column].token
    }
}

#[cold]
fn look_up(
    exact: &HashMap<String, usize>,
    folded: &HashMap<String, usize>,
    name: Token,
    spelling: &str,
) -> Option<Target> {
    let unescaped = (name.kind == TokenKind::EscapedString).then(|| unescape(spelling));
    let name = unescaped.as_deref().unwrap_or(spelling);
    if let Some(&column) = exact.get(name) {
        return Some(Target { column, is_exact: true });
    }
    folded.get(&name.to_lowercase()).map(|&column| Target { column, is_exact: false })
}

fn remember(guesses: &mut Vec<Guess>, position: usize, spelling: &str, target: Option<Target>) {
    // Behind a name that was not remembered nothing is: there is no guess without a name.
    if position >= GUESSES_MAX || spelling.len() > GUESS_BYTES_MAX || position > guesses.len() {
        return;
    }
    if position == guesses.len() {
        guesses.push(Guess::default());
    }
    let guess = &mut guesses[position];
    guess.name.clear();
    guess.name.push_str(spelling);
    guess.target = target;
}
