//! Values of records to one `RecordBatch`, row by row, all or nothing per row.

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;

use super::column::Column;
use super::kind::{Kind, UnsupportedType};
use super::members::Members;
use super::reject::RejectReason;
use super::scan::{Scanner, Token};

/// Decodes JSON objects into the columns of one schema. Keeps no rows between calls of `decode`; it only remembers the
/// order of the members seen last, which makes the next records faster and has no other effect.
#[derive(Debug)]
pub struct JsonDecoder {
    schema: SchemaRef,
    members: Members,
    columns: Vec<Column>,
    /// What stands for a member that is not there: JSON text and the token that is all of it.
    absent: Vec<Option<(String, Token)>>,
}

/// The outcome of [`JsonDecoder::decode`]. Every input is in `accepted` or in `rejected`, both ascending.
#[derive(Debug)]
pub struct Decoded {
    /// The rows that decoded, in the order of the input.
    pub batch: RecordBatch,
    /// Row `i` of the batch came from the input at `accepted[i]`.
    pub accepted: Vec<u32>,
    /// The inputs that did not decode, and why.
    pub rejected: Vec<(u32, RejectReason)>,
}

impl JsonDecoder {
    /// A decoder for records whose members are the fields of `schema`, by name: in its own case or, where a record has no
    /// such member, in any case. `Utf8` fields with metadata [`TYPE_KEY`](super::TYPE_KEY) `jsonb` or `uuid` are those.
    pub fn new(schema: SchemaRef) -> Result<Self, UnsupportedType> {
        let columns = schema
            .fields()
            .iter()
            .map(|field| Ok(Column::new(field, Kind::of(field)?)))
            .collect::<Result<_, UnsupportedType>>()?;
        let members = Members::new(schema.fields().iter().map(|field| field.name()));
        let absent = vec![None; schema.fields().len()];
        Ok(Self { schema, members, columns, absent })
    }

    /// A record without a member for this column is read as if it had this one. A member that is null stays null. The
    /// text must be one JSON value; false if it is not, or if there is no such column.
    pub fn set_absent(&mut self, column: usize, text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.skip_space();
        let token = scanner.value(1);
        match (self.absent.get_mut(column), token, scanner.expect_end()) {
            (Some(absent), Ok(token), Ok(())) => {
                *absent = Some((text.to_owned(), token));
                true
            }
            _ => false,
        }
    }

    /// Decodes the value of one record each; `None` is a null value (a tombstone) and is rejected. Takes at most 2^32
    /// values. A column of one batch holds less than 2 GiB of text: the records beyond that are rejected, so callers
    /// should pass less in one call.
    pub fn decode<'a>(&mut self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Decoded {
        let (mut accepted, mut rejected) = (Vec::with_capacity(values.size_hint().0), Vec::new());
        for (index, value) in values.enumerate() {
            let index = u32::try_from(index).expect("a batch has at most 2^32 records");
            match self.append(value) {
                Ok(()) => accepted.push(index),
                Err(reason) => {
                    let rows = accepted.len();
                    self.columns.iter_mut().for_each(|column| column.truncate(rows));
                    rejected.push((index, reason));
                }
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(accepted.len()));
        let arrays = self.columns.iter_mut().map(Column::finish).collect();
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .expect("every column has the type of its field and one value per accepted record");
        Decoded { batch, accepted, rejected }
    }

    fn append(&mut self, value: Option<&[u8]>) -> Result<(), RejectReason> {
        let value = value.ok_or_else(RejectReason::tombstone)?;
        let text = std::str::from_utf8(value).map_err(|error| RejectReason::not_utf8(error.valid_up_to()))?;
        self.read(text)?;
        for (index, column) in self.columns.iter_mut().enumerate() {
            let token = self.members.token(index);
            match &self.absent[index] {
                Some((text, absent)) if token.is_missing() => column.append(text, *absent, 1)?,
                _ => column.append(text, token, 1)?,
            }
        }
        Ok(())
    }

    /// Scans the whole record and notes its members.
    fn read(&mut self, text: &str) -> Result<(), RejectReason> {
        let malformed = |error| RejectReason::malformed(text, &error);
        let mut scanner = Scanner::new(text);
        scanner.skip_space();
        let is_object = scanner.peek() == Some(b'{');
        if is_object {
            self.members.read(text, &mut scanner, 1).map_err(malformed)?;
        } else {
            let _: Token = scanner.value(0).map_err(malformed)?;
        }
        scanner.expect_end().map_err(malformed)?;
        if is_object { Ok(()) } else { Err(RejectReason::not_an_object(text)) }
    }
}
