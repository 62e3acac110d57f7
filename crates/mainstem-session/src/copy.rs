//! COPY: lines to rows and back, in PostgreSQL's text format and in CSV.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use mainstem_catalog::{Relation, RelationKind};
use mainstem_sql::statement::{Copy, CopyFormat, CopyTarget};
use mainstem_sql::{SqlError, arrow_field};

use crate::session::{Response, RowStream, Session};
use crate::values::{Cells, RowEncoder, column_from_text};

/// Rows that become one batch.
const BATCH_ROWS: usize = 8192;
/// All of it is one write, and rows take more as JSON than as lines.
const BYTES_MAX: usize = 64 << 20;

/// Rows on their way in.
#[derive(Debug)]
pub struct CopyIn {
    relation: Arc<Relation>,
    /// Indexes of the columns that the lines have.
    columns: Vec<usize>,
    options: Copy,
    /// The unfinished line.
    rest: Vec<u8>,
    /// Whether a quote is open at the end of `rest` (CSV), up to where it was looked at.
    looked_at: usize,
    in_quotes: bool,
    line: u64,
    /// After `\.`
    is_ended: bool,
    fields: Vec<Vec<Option<String>>>,
    batches: Vec<RecordBatch>,
    bytes: usize,
}

/// Rows on their way out.
#[derive(Debug)]
pub struct CopyOut {
    options: Copy,
    encoder: RowEncoder,
    schema: SchemaRef,
    stream: RowStream,
}

impl Session {
    pub(crate) async fn copy(&mut self, copy: &Copy) -> Result<Response, SqlError> {
        match &copy.target {
            CopyTarget::ToStdout { query } => {
                let (schema, stream) = self.run_query(query, &[]).await?;
                CopyOut::response(copy, schema, stream)
            }
            CopyTarget::Changes { subscribe } => {
                let (schema, stream) = self.subscribe(subscribe, &[]).await?;
                CopyOut::response(copy, schema, stream)
            }
            CopyTarget::FromStdin { table, columns } => {
                self.check_writable("COPY FROM")?;
                let catalog = self.shared.catalogs.current();
                let relation = catalog.relation_named(table.schema.as_deref().unwrap_or("public"), &table.name);
                let missing = || SqlError::new("42P01", format!("relation \"{table}\" does not exist"));
                let relation = relation.ok_or_else(missing)?.clone();
                if !matches!(relation.kind, RelationKind::Table(_)) {
                    let message = format!("cannot copy to {} \"{table}\"", relation.kind.noun());
                    return Err(SqlError::new("42809", message).with_hint("Only tables can be written to by SQL."));
                }
                let columns = target_columns(&relation, columns)?;
                Ok(Response::CopyIn(CopyIn::new(relation, columns, copy.clone())))
            }
        }
    }

    /// All rows came: writes them, as one statement. Gives the tag.
    pub async fn finish_copy(&mut self, mut copy: CopyIn) -> Result<String, SqlError> {
        copy.finish()?;
        let writes = self.transaction.as_mut().map(|open| &mut open.writes);
        let catalog = self.shared.catalogs.current();
        let rows = std::mem::take(&mut copy.batches);
        let appended = self.shared.tables.append(writes, catalog, copy.relation.id, &copy.columns, rows);
        let result = Box::pin(appended).await;
        if result.is_err() {
            self.fail();
        }
        let result = result?;
        self.acknowledge(result.cut);
        Ok(format!("COPY {}", result.rows_affected))
    }
}

fn target_columns(relation: &Relation, names: &[String]) -> Result<Vec<usize>, SqlError> {
    let visible = |index: &usize| !relation.columns[*index].hidden;
    if names.is_empty() {
        return Ok((0..relation.columns.len()).filter(visible).collect());
    }
    let mut columns = Vec::new();
    for name in names {
        let index = relation.column(name).filter(visible);
        let missing = || {
            let message = format!("column \"{name}\" of relation \"{}\" does not exist", relation.name);
            SqlError::new("42703", message)
        };
        let index = index.ok_or_else(missing)?;
        if columns.contains(&index) {
            return Err(SqlError::new("42701", format!("column \"{name}\" specified more than once")));
        }
        columns.push(index);
    }
    Ok(columns)
}

impl CopyIn {
    fn new(relation: Arc<Relation>, columns: Vec<usize>, options: Copy) -> CopyIn {
        let fields = vec![Vec::new(); columns.len()];
        CopyIn {
            relation,
            columns,
            options,
            rest: Vec::new(),
            looked_at: 0,
            in_quotes: false,
            line: 0,
            is_ended: false,
            fields,
            batches: Vec::new(),
            bytes: 0,
        }
    }

    /// How many columns a line has.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Bytes as they come, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SqlError> {
        self.bytes += bytes.len();
        if self.bytes > BYTES_MAX {
            let message =
                format!("COPY takes at most {BYTES_MAX} bytes at once, since all of its rows become one write");
            return Err(SqlError::new("54000", message).with_hint("Split the input into several COPY statements."));
        }
        self.rest.extend_from_slice(bytes);
        let mut begin = 0;
        while let Some(end) = self.line_end() {
            let mut line = self.rest[begin..end].to_vec();
            begin = end + 1;
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            self.take_line(&line)?;
        }
        self.rest.drain(..begin);
        self.looked_at -= begin;
        Ok(())
    }

    /// Where the next line ends, from where it was looked at.
    fn line_end(&mut self) -> Option<usize> {
        let (quote, is_csv) = (self.options.quote, self.options.format == CopyFormat::Csv);
        while let Some(byte) = self.rest.get(self.looked_at) {
            let at = self.looked_at;
            self.looked_at += 1;
            // A doubled quote closes and opens; another escape character is never a line's end.
            if is_csv && char::from(*byte) == quote {
                self.in_quotes = !self.in_quotes;
            } else if *byte == b'\n' && !self.in_quotes {
                return Some(at);
            }
        }
        None
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), SqlError> {
        self.line += 1;
        if self.is_ended || (self.line == 1 && self.options.header) {
            return Ok(());
        }
        if line == b"\\." {
            self.is_ended = true;
            return Ok(());
        }
        let text = std::str::from_utf8(line)
            .map_err(|_| self.here(SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\"")))?;
        let values = match self.options.format {
            CopyFormat::Text => text_fields(text, self.options.delimiter, &self.options.null),
            CopyFormat::Csv => csv_fields(text, &self.options),
        };
        let values = values.map_err(|error| self.here(error))?;
        if values.len() > self.columns.len() {
            return Err(self.here(SqlError::new("22P04", "extra data after last expected column")));
        }
        if values.len() < self.columns.len() {
            let column = &self.relation.columns[self.columns[values.len()]].name;
            return Err(self.here(SqlError::new("22P04", format!("missing data for column \"{column}\""))));
        }
        for (column, value) in self.fields.iter_mut().zip(values) {
            column.push(value);
        }
        if self.fields.first().is_some_and(|column| column.len() >= BATCH_ROWS) {
            self.make_batch()?;
        }
        Ok(())
    }

    fn here(&self, error: SqlError) -> SqlError {
        let detail = format!("COPY {}, line {}", self.relation.name, self.line);
        let detail = error.detail.as_ref().map_or(detail.clone(), |before| format!("{before} {detail}"));
        error.with_detail(detail)
    }

    fn make_batch(&mut self) -> Result<(), SqlError> {
        if self.fields.first().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let mut arrays = Vec::new();
        let mut fields = Vec::new();
        for (index, texts) in self.columns.iter().zip(&self.fields) {
            let column = &self.relation.columns[*index];
            let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
            let array = column_from_text(&texts, &column.sql_type, &column.name);
            arrays.push(array.map_err(|error| self.here(error))?);
            fields.push(arrow_field(column).with_nullable(true));
        }
        self.batches.push(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("columns of one length"));
        self.fields.iter_mut().for_each(Vec::clear);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SqlError> {
        if self.in_quotes {
            return Err(self.here(SqlError::new("22P04", "unterminated CSV quoted field")));
        }
        if !self.rest.is_empty() {
            let line = std::mem::take(&mut self.rest);
            self.take_line(&line)?;
        }
        self.make_batch()
    }
}

/// Fields of a line of the text format.
fn text_fields(line: &str, delimiter: char, null: &str) -> Result<Vec<Option<String>>, SqlError> {
    let mut fields = Vec::new();
    let mut raw = String::new();
    let mut chars = line.chars();
    loop {
        match chars.next() {
            Some('\\') => {
                raw.push('\\');
                raw.extend(chars.next());
            }
            Some(c) if c != delimiter => raw.push(c),
            end => {
                fields.push(if raw == null { None } else { Some(unescape(&raw)?) });
                raw.clear();
                if end.is_none() {
                    return Ok(fields);
                }
            }
        }
    }
}

fn unescape(raw: &str) -> Result<String, SqlError> {
    if !raw.contains('\\') {
        return Ok(raw.to_owned());
    }
    let mut out = Vec::new();
    let mut bytes = raw.bytes().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'b') => out.push(8),
            Some(b'f') => out.push(12),
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b't') => out.push(b'\t'),
            Some(b'v') => out.push(11),
            Some(b'x') => {
                let mut value = None;
                while let Some(digit) =
                    bytes.peek().and_then(|b| char::from(*b).to_digit(16)).filter(|_| value < Some(16))
                {
                    value = Some(value.unwrap_or(0) * 16 + digit);
                    bytes.next();
                }
                out.push(value.map_or(b'x', |value| value as u8));
            }
            Some(first @ b'0'..=b'7') => {
                let mut value = u32::from(first - b'0');
                for _ in 0..2 {
                    let Some(digit) = bytes.peek().and_then(|b| char::from(*b).to_digit(8)) else { break };
                    value = value * 8 + digit;
                    bytes.next();
                }
                out.push((value & 0xff) as u8);
            }
            Some(other) => out.push(other),
            None => out.push(b'\\'),
        }
    }
    String::from_utf8(out).map_err(|_| SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\""))
}

/// Fields of a CSV record.
fn csv_fields(line: &str, options: &Copy) -> Result<Vec<Option<String>>, SqlError> {
    let mut fields = Vec::new();
    let (mut field, mut was_quoted, mut in_quotes) = (String::new(), false, false);
    let mut chars = line.chars().peekable();
    loop {
        match chars.next() {
            Some(c) if in_quotes && c == options.escape && chars.peek() == Some(&options.quote) => {
                field.push(options.quote);
                chars.next();
            }
            Some(c)
                if in_quotes && c == options.escape && c != options.quote && chars.peek() == Some(&options.escape) =>
            {
                field.push(options.escape);
                chars.next();
            }
            Some(c) if c == options.quote => {
                in_quotes = !in_quotes;
                was_quoted = true;
            }
            Some(c) if in_quotes || c != options.delimiter => field.push(c),
            end => {
                if end.is_none() && in_quotes {
                    return Err(SqlError::new("22P04", "unterminated CSV quoted field"));
                }
                let text = std::mem::take(&mut field);
                fields.push((was_quoted || text != options.null).then_some(text));
                was_quoted = false;
                if end.is_none() {
                    return Ok(fields);
                }
            }
        }
    }
}

impl CopyOut {
    fn response(options: &Copy, schema: SchemaRef, stream: RowStream) -> Result<Response, SqlError> {
        let encoder = RowEncoder::new(&schema, &[])?;
        Ok(Response::CopyOut(CopyOut { options: options.clone(), encoder, schema, stream }))
    }

    /// How many columns a line has.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.encoder.columns().len()
    }

    /// The rows.
    pub fn stream(&mut self) -> &mut RowStream {
        &mut self.stream
    }

    /// Makes a batch ready.
    pub fn cells(&self, batch: &RecordBatch) -> Result<Cells, SqlError> {
        self.encoder.cells(batch)
    }

    /// The first line, if one was asked for.
    #[must_use]
    pub fn header(&self) -> Option<Vec<u8>> {
        if !self.options.header {
            return None;
        }
        let mut out = Vec::new();
        let names: Vec<Option<String>> = self.schema.fields().iter().map(|field| Some(field.name().clone())).collect();
        self.write_fields(&names, &mut out);
        Some(out)
    }

    /// A row as a line, with its end.
    pub fn write_line(&self, cells: &Cells, row: usize, out: &mut Vec<u8>) {
        let fields: Vec<Option<String>> =
            (0..self.columns()).map(|column| cells.text(&self.encoder, row, column)).collect();
        self.write_fields(&fields, out);
    }

    fn write_fields(&self, fields: &[Option<String>], out: &mut Vec<u8>) {
        let mut line = String::new();
        let options = &self.options;
        for (i, field) in fields.iter().enumerate() {
            if i > 0 {
                line.push(options.delimiter);
            }
            match (field, options.format) {
                (None, _) => line.push_str(&options.null),
                (Some(text), CopyFormat::Text) => escape_text(text, options.delimiter, &mut line),
                (Some(text), CopyFormat::Csv) => {
                    let needs_quotes = text == &options.null
                        || text == "\\."
                        || text.contains([options.delimiter, options.quote, '\n', '\r']);
                    if needs_quotes {
                        line.push(options.quote);
                        for c in text.chars() {
                            if c == options.quote || c == options.escape {
                                line.push(options.escape);
                            }
                            line.push(c);
                        }
                        line.push(options.quote);
                    } else {
                        line.push_str(text);
                    }
                }
            }
        }
        line.push('\n');
        out.extend_from_slice(line.as_bytes());
    }
}

fn escape_text(text: &str, delimiter: char, line: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '\u{8}' => line.push_str("\\b"),
            '\u{c}' => line.push_str("\\f"),
            '\u{b}' => line.push_str("\\v"),
            c if c == delimiter => {
                line.push('\\');
                line.push(c);
            }
            c => line.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_csv_are_read_as_postgres_reads_them() {
        let text = |line| text_fields(line, '\t', "\\N").expect("fields");
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(text("a\t\\N\tb\\tc\\\\d"), [some("a"), None, some("b\tc\\d")]);
        assert_eq!(text(""), [some("")]);
        assert_eq!(text("\\x41\\101"), [some("AA")]);
        let options = Copy {
            target: CopyTarget::FromStdin {
                table: mainstem_sql::QualifiedName { schema: None, name: "t".into() },
                columns: vec![],
            },
            format: CopyFormat::Csv,
            header: false,
            delimiter: ',',
            null: String::new(),
            quote: '"',
            escape: '"',
        };
        let csv = |line| csv_fields(line, &options).expect("fields");
        assert_eq!(csv("a,,\"\",\"b,\"\"c\"\"\""), [some("a"), None, some(""), some("b,\"c\"")]);
        assert!(csv_fields("\"open", &options).is_err());
    }
}
