//! Where statements end, which of them are COPY, and where in them an error is.

/// Whether the text ends a statement: a `;` outside quotes, comments and dollar quotes, followed by nothing.
pub(super) fn is_complete(sql: &str) -> bool {
    let mut rest = sql;
    let mut ended = true;
    while let Some(c) = rest.chars().next() {
        let is_comment = rest.starts_with("--") || rest.starts_with("/*");
        if !c.is_whitespace() && !is_comment {
            ended = c == ';';
        }
        match token(rest) {
            Some(bytes) => rest = rest.get(bytes..).unwrap_or_default(),
            None => return false,
        }
    }
    ended
}

/// Bytes of what the text begins with: a quote or a comment as a whole, or one character. `None` when it is not closed.
fn token(rest: &str) -> Option<usize> {
    let c = rest.chars().next()?;
    match c {
        '\'' => close(rest, 1, "'"),
        '"' => close(rest, 1, "\""),
        '-' if rest.starts_with("--") => rest.find('\n').map(|at| at + 1).or(Some(rest.len())),
        '/' if rest.starts_with("/*") => close(rest, 2, "*/"),
        '$' => match dollar_tag(rest) {
            Some(tag) => close(rest, tag.len(), tag),
            None => Some(1),
        },
        _ => Some(c.len_utf8()),
    }
}

/// The first statement with its `;`; all of the text when it has no end.
pub(super) fn first_statement(sql: &str) -> &str {
    let mut at = 0;
    while let Some(rest) = sql.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(bytes) = token(rest) else { break };
        at += bytes;
        if rest.starts_with(';') {
            return sql.get(..at).unwrap_or(sql);
        }
    }
    sql
}

/// Which way a COPY goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    FromStdin,
    ToStdout,
}

/// Whether a statement is a COPY whose rows come from us or go to us.
pub(super) fn copy(statement: &str) -> Option<Copy> {
    let words = words(statement);
    let has = |pair: [&str; 2]| words.windows(2).any(|found| found == pair);
    if words.first().is_none_or(|word| word != "COPY") {
        None
    } else if has(["TO", "STDOUT"]) {
        Some(Copy::ToStdout)
    } else if has(["FROM", "STDIN"]) {
        Some(Copy::FromStdin)
    } else {
        None
    }
}

/// The words of a statement in upper case; quotes and other signs stand as words of their own, comments do not.
fn words(statement: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut rest = statement;
    while let Some(c) = rest.chars().next() {
        let is_comment = rest.starts_with("--") || rest.starts_with("/*");
        let bytes = token(rest).unwrap_or(rest.len());
        if c.is_alphanumeric() || c == '_' {
            word.extend(c.to_uppercase());
        } else {
            words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
            if !is_comment && !c.is_whitespace() {
                words.push(rest.get(..bytes).unwrap_or(rest).to_owned());
            }
        }
        rest = rest.get(bytes..).unwrap_or_default();
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// Bytes up to and including the closing mark, if it is there.
fn close(rest: &str, from: usize, mark: &str) -> Option<usize> {
    rest.get(from..)?.find(mark).map(|at| from + at + mark.len())
}

/// `$$` or `$tag$` at the start.
fn dollar_tag(rest: &str) -> Option<&str> {
    let end = rest.get(1..)?.find('$')? + 1;
    let tag = rest.get(..=end)?;
    tag.get(1..end)?.chars().all(|c| c.is_alphanumeric() || c == '_').then_some(tag)
}

/// The line with the character at `position` (from 1), and a mark under it.
pub(super) fn point_at(sql: &str, position: usize) -> String {
    let before: String = sql.chars().take(position.saturating_sub(1)).collect();
    let number = before.matches('\n').count();
    let column = before.chars().rev().take_while(|c| *c != '\n').count();
    let Some(line) = sql.lines().nth(number) else { return String::new() };
    let from = column.saturating_sub(60);
    let shown: String = line.chars().skip(from).take(120).collect();
    format!(
        "\n  line {}: {shown}\n{}^",
        number + 1,
        " ".repeat(format!("  line {}: ", number + 1).len() + column - from)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_at_a_semicolon_that_counts() {
        for complete in ["", "SELECT 1;", "SELECT ';' ;  -- x", "SELECT $$;$$;", "SELECT $a$ ; $a$;\n", "/* ; */"] {
            assert!(is_complete(complete), "{complete:?}");
        }
        for open in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT", "SELECT $$;", "SELECT \";", "SELECT 1 -- ;", "/* ;"] {
            assert!(!is_complete(open), "{open:?}");
        }
    }

    #[test]
    fn statements_are_taken_one_by_one() {
        for (sql, first) in [
            ("SELECT ';'; SELECT 2;", "SELECT ';';"),
            ("SELECT 1", "SELECT 1"),
            ("-- a;\nSELECT 1; x", "-- a;\nSELECT 1;"),
            ("SELECT $$;$$ ; x", "SELECT $$;$$ ;"),
            ("SELECT '; x", "SELECT '; x"),
            ("", ""),
        ] {
            assert_eq!(first_statement(sql), first);
        }
    }

    #[test]
    fn a_copy_is_known_by_its_words() {
        for (statement, expected) in [
            ("copy t to stdout", Some(Copy::ToStdout)),
            (" -- all\nCOPY (SELECT * FROM stdin) TO STDOUT (FORMAT csv);", Some(Copy::ToStdout)),
            ("copy t(a, b) from/**/stdin;", Some(Copy::FromStdin)),
            ("COPY \"to\" FROM STDIN WITH (FORMAT csv)", Some(Copy::FromStdin)),
            ("COPY t TO 'stdout'", None),
            ("SELECT 'copy t to stdout'", None),
            ("SELECT copy FROM stdin", None),
            ("", None),
        ] {
            assert_eq!(copy(statement), expected, "{statement}");
        }
    }

    #[test]
    fn an_error_points_at_its_character() {
        assert_eq!(point_at("SELECT\n  foo", 10), "\n  line 2:   foo\n            ^");
        assert_eq!(point_at("x", 99), "\n  line 1: x\n           ^");
    }
}
