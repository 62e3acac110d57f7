//! Tables for people: a header, a rule, rows; numbers to the right.

use comfy_table::{CellAlignment, Table, TableComponent, presets};

/// One line per row, no more lines than needed. A cell that is `None` shows as `∅`.
pub(crate) fn render(header: &[String], rows: &[Vec<Option<String>>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table.set_style(TableComponent::HeaderLines, '─').set_style(TableComponent::MiddleHeaderIntersections, '─');
    for row in rows {
        table.add_row(row.iter().map(|cell| cell.as_deref().unwrap_or("∅")));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        let mut cells = rows.iter().filter_map(|row| row.get(index)?.as_deref()).peekable();
        if cells.peek().is_some() && cells.all(|cell| cell.parse::<f64>().is_ok()) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // The last column is not padded.
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_null_is_seen() {
        let row = |name: &str, n: Option<&str>| vec![Some(name.to_owned()), n.map(str::to_owned)];
        let shown =
            render(&["name".into(), "n".into()], &[row("a", Some("1")), row("bc", Some("-10.5")), row("d", None)]);
        assert_eq!(shown, " name       n\n──────────────\n a          1\n bc     -10.5\n d          ∅");
    }
}
