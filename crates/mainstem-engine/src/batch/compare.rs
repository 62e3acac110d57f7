//! A view's content beside its definition, row by row, bit for bit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use mainstem_catalog::{Catalog, RelationId};
use mainstem_sql::{SqlError, arrow_schema};

use super::context::visible_columns;
use super::errors::{engine_error, view_error};
use super::oracle::recompute;
use crate::delta::{RowKeys, batch_of};
use crate::engine::{Engine, PinnedRelation};
use crate::input_log::Cut;

/// Differing rows that are printed of each kind.
const SHOWN_MAX: usize = 20;

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The cut at which both were taken.
    pub cut: Cut,
    /// Rows of the definition.
    pub rows: u64,
    /// Rows that the definition has and the view has not (or less often), printed; the last line tells how many more.
    pub missing: Vec<String>,
    /// Rows that the view has and the definition has not.
    pub extra: Vec<String>,
}

impl Comparison {
    /// Not a single difference.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty()
    }
}

/// Compares what the view (or table) holds now with [`recompute`] at the very same cut, as multisets of rows. Floats are
/// compared by their bits, after -0.0 is made 0.0 and every NaN the one NaN.
pub async fn compare_view(
    engine: &Engine,
    catalog: &Arc<Catalog>,
    relation: RelationId,
) -> Result<Comparison, SqlError> {
    let pinned = engine.pin(&[relation]).map_err(|error| engine_error(&error))?;
    let definition = catalog.relation(relation);
    let definition = definition.ok_or_else(|| engine_error(&crate::EngineError::UnknownRelation(relation.0)))?;
    let version = match pinned.relations.get(&relation) {
        Some(PinnedRelation::Collection(_, Some(error))) => return Err(view_error(&definition.name, error)),
        Some(PinnedRelation::Collection(version, None)) => version,
        _ => return Err(SqlError::new("42809", format!("\"{}\" is no view", definition.name))),
    };
    let expected = recompute(engine, catalog, relation, pinned.cut).await?;
    let columns = visible_columns(definition);
    let found: Vec<RecordBatch> = version.scan(Some(&columns), 8192).collect();
    let schema = arrow_schema(&definition.columns).project(&columns).expect("columns of the relation");
    let mut comparison = compare(&found, &expected, &Arc::new(schema));
    comparison.cut = pinned.cut;
    Ok(comparison)
}

fn compare(found: &[RecordBatch], expected: &[RecordBatch], schema: &arrow::datatypes::SchemaRef) -> Comparison {
    let keys = RowKeys::new(schema).expect("column types that have an order");
    let mut weights: HashMap<Box<[u8]>, i64> = HashMap::new();
    let mut comparison = Comparison::default();
    for batch in expected {
        let encoded = keys.encode(batch.columns(), batch.num_rows());
        encoded.iter().for_each(|key| *weights.entry(key.into()).or_default() += 1);
        comparison.rows += batch.num_rows() as u64;
    }
    for batch in found {
        let encoded = keys.encode(batch.columns(), batch.num_rows());
        encoded.iter().for_each(|key| *weights.entry(key.into()).or_default() -= 1);
    }
    let differing: BTreeMap<Box<[u8]>, i64> = weights.into_iter().filter(|(_, weight)| *weight != 0).collect();
    let of_sign = |sign: i64| -> Vec<(&[u8], u64)> {
        let chosen = differing.iter().filter(|(_, weight)| weight.signum() == sign);
        chosen.map(|(key, weight)| (key.as_ref(), weight.unsigned_abs())).collect()
    };
    comparison.missing = printed(&keys, &of_sign(1));
    comparison.extra = printed(&keys, &of_sign(-1));
    comparison
}

fn printed(keys: &RowKeys, rows: &[(&[u8], u64)]) -> Vec<String> {
    let shown = rows.len().min(SHOWN_MAX);
    let batch = keys.decode(rows[..shown].iter().map(|(key, _)| *key));
    let batch = batch_of(keys.schema(), batch.columns().to_vec(), shown).expect("the columns of the schema");
    let mut lines: Vec<String> = (0..shown)
        .map(|row| {
            let times = if rows[row].1 > 1 { format!("{} times ", rows[row].1) } else { String::new() };
            format!("{times}{}", row_text(&batch, row))
        })
        .collect();
    if rows.len() > shown {
        lines.push(format!("... and {} more", rows.len() - shown));
    }
    lines
}

/// `(1, Boston, null)`
pub(crate) fn row_text(batch: &RecordBatch, row: usize) -> String {
    let options = FormatOptions::default().with_null("null").with_display_error(true);
    let values: Vec<String> = batch
        .columns()
        .iter()
        .map(|column| match ArrayFormatter::try_new(column.as_ref(), &options) {
            Ok(formatter) => formatter.value(row).to_string(),
            Err(error) => error.to_string(),
        })
        .collect();
    format!("({})", values.join(", "))
}
