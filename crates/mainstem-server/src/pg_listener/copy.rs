//! COPY: rows as lines, within the conversation of simple and extended queries alike.

use mainstem_session::{CopyIn, CopyOut};
use mainstem_sql::SqlError;

use super::connection::{Connection, next_batch};
use super::guard::{Fault, Guard};
use super::wire::{Closed, Message, count};

impl Connection {
    /// COPY FROM STDIN: all rows or none; gives the tag.
    pub(super) async fn copy_in(&mut self, guard: &Guard, mut copy: CopyIn) -> Result<String, Fault> {
        let columns = copy.columns();
        self.writer.message(b'G', |out| copy_response(out, columns));
        self.writer.send().await?;
        // After an error the rest is read and dropped, up to the client's end of it.
        let mut failed: Option<SqlError> = None;
        loop {
            match guard.receive(&mut self.reader).await?.ok_or(Closed::Left)? {
                Message::CopyData(bytes) => {
                    if failed.is_none() {
                        failed = copy.push(&bytes).err();
                    }
                }
                Message::CopyDone => break,
                Message::CopyFail(why) => {
                    let error = SqlError::new("57014", format!("COPY from stdin failed: {why}"));
                    return Err(failed.unwrap_or(error).into());
                }
                Message::Flush | Message::Sync => {}
                Message::Terminate => return Err(Closed::Left.into()),
                other => {
                    let kind = format!("unexpected message during COPY from stdin: {other:?}");
                    let kind = kind.chars().take(100).collect::<String>();
                    return Err(SqlError::new("08P01", kind).into());
                }
            }
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        guard.run(&mut self.reader, self.session.finish_copy(copy)).await
    }

    /// COPY TO STDOUT; gives the tag.
    pub(super) async fn copy_out(&mut self, guard: &Guard, mut copy: CopyOut) -> Result<String, Fault> {
        let columns = copy.columns();
        self.writer.message(b'H', |out| copy_response(out, columns));
        if let Some(header) = copy.header() {
            self.writer.message(b'd', |out| out.extend_from_slice(&header));
        }
        let mut rows = 0u64;
        while let Some(batch) = guard.run(&mut self.reader, next_batch(copy.stream())).await? {
            let cells = copy.cells(&batch)?;
            for row in 0..cells.rows() {
                self.writer.message(b'd', |out| copy.write_line(&cells, row, out));
                if self.writer.is_due() {
                    guard.run(&mut self.reader, self.writer.send()).await?;
                }
            }
            if cells.rows() == 0 {
                guard.run(&mut self.reader, self.writer.send()).await?;
            }
            rows += cells.rows() as u64;
        }
        self.writer.empty(b'c');
        Ok(format!("COPY {rows}"))
    }
}

/// Text in all columns.
fn copy_response(out: &mut Vec<u8>, columns: usize) {
    out.push(0);
    count(out, columns);
    (0..columns).for_each(|_| count(out, 0));
}
