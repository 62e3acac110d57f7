//! Where statements end, and where in them an error is.

/// Whether the text ends a statement: a `;` outside quotes, comments and dollar quotes, followed by nothing.
pub(super) fn is_complete(sql: &str) -> bool {
    let mut rest = sql;
    let mut ended = true;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '\'' => close(rest, 1, "'"),
            '"' => close(rest, 1, "\""),
            '-' if rest.starts_with("--") => rest.find('\n').map(|at| at + 1).or(Some(rest.len())),
            '/' if rest.starts_with("/*") => close(rest, 2, "*/"),
            '$' => match dollar_tag(rest) {
                Some(tag) => close(rest, tag.len(), tag),
                None => Some(1),
            },
            _ => Some(c.len_utf8()),
        };
        let is_comment = rest.starts_with("--") || rest.starts_with("/*");
        if !c.is_whitespace() && !is_comment {
            ended = c == ';';
        }
        match skipped {
            Some(bytes) => rest = rest.get(bytes..).unwrap_or_default(),
            None => return false,
        }
    }
    ended
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
    fn an_error_points_at_its_character() {
        assert_eq!(point_at("SELECT\n  foo", 10), "\n  line 2:   foo\n            ^");
        assert_eq!(point_at("x", 99), "\n  line 1: x\n           ^");
    }
}
