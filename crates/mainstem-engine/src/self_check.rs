//! Falsifies what a view shows, so that a comparison with batch can prove that it would notice.

use arrow::compute::{concat, concat_batches};
use mainstem_catalog::RelationId;

use crate::collection::{Collection, KeyKind};
use crate::delta::Delta;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::input_log::Cut;

impl Engine {
    /// Gives one row of a view another row's first column, in what readers see; the log, the operators and checkpoints are
    /// left alone, so that the next version that changes the view, or a restart, shows the truth again. Needs two rows that differ there.
    pub fn corrupt_one_row(&self, view: RelationId) -> Result<(), EngineError> {
        let before = self.shared.with_frontiers(|all| all.common(&[view]));
        let before = before.ok_or(EngineError::UnknownRelation(view.0))?;
        let content = before.relations.get(&view).ok_or(EngineError::UnknownRelation(view.0))?;
        let schema = content.version.schema().clone();
        let all: Vec<_> = content.version.scan(None, 8192).collect();
        let rows = concat_batches(&schema, &all).expect("batches of one schema");
        if rows.num_rows() < 2 || rows.num_columns() == 0 {
            return Err(EngineError::UnknownRelation(view.0));
        }
        let last = rows.num_rows() - 1;
        let mut columns = rows.columns().to_vec();
        let first = &columns[0];
        columns[0] = concat(&[&first.slice(last, 1), &first.slice(1, last)]).expect("slices of one column");
        let falsified = arrow::record_batch::RecordBatch::try_new(schema.clone(), columns).expect("the same columns");
        let mut collection = Collection::new(schema, KeyKind::WholeRow);
        collection.apply(Cut::ZERO, &Delta::from_inserts(falsified));
        self.shared.publish(|all| all.falsify(view, collection.version()));
        Ok(())
    }
}
