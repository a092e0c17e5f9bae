//! From the columns of rows that may win to the byte strings that order them, and back.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use vlmsel_shards::tables::schema::{Column, MAX_ID_BYTES};
use vlmsel_shards::tables::score::scores_from_keys;

use super::plan::Columns;
use super::rows::{KEY_BYTES, Row};
use super::sorter::Arena;
use crate::error::{Error, Result};

/// A kept value longer than this is refused: one hostile cell must not fill the memory.
const MAX_REST_BYTES: usize = 16 << 20;
/// Rows are encoded in shares of about this size.
const SHARE_BYTES: usize = 4 << 20;

fn converter(columns: &[&Column]) -> Result<RowConverter> {
    RowConverter::new(columns.iter().map(|column| SortField::new(column.working.clone())).collect())
        .map_err(|error| Error::usage(format!("cannot order these columns: {error}")))
}

/// Encodes rows. One per thread; the encodings of all agree.
pub struct Encoder {
    id: RowConverter,
    rest: Option<RowConverter>,
    with_tokens: bool,
    with_score: bool,
}

impl Encoder {
    /// For the columns of a request; `with_tokens` appends the token counts, `with_score` puts the score behind the id
    /// (where the key is something else).
    pub fn new(columns: &Columns, with_tokens: bool, with_score: bool) -> Result<Self> {
        let rest = columns.rest();
        let rest = if rest.is_empty() { None } else { Some(converter(&rest)?) };
        Ok(Self { id: converter(&[&columns.id])?, rest, with_tokens, with_score })
    }

    /// Appends rows to `out`: `keys[i]` belongs to row `i` of `batch`, which has the columns of
    /// [`Columns::winning`], in that order. `hand_over` is called whenever a bounded share was appended: a dictionary may
    /// hold one long value for many rows, and each row gets its own copy here.
    pub fn encode(
        &self,
        keys: &[u64],
        scores: &[u64],
        batch: &RecordBatch,
        out: &mut Arena,
        hand_over: &mut dyn FnMut(&mut Arena) -> Result<()>,
    ) -> Result<()> {
        let longest = check_lengths(batch)?;
        let step = (SHARE_BYTES / longest.max(1)).clamp(1, batch.num_rows().max(1));
        for start in (0..batch.num_rows()).step_by(step) {
            let length = step.min(batch.num_rows() - start);
            let end = start + length;
            let scores = scores.get(start..end).unwrap_or_default();
            self.encode_share(&keys[start..end], scores, &batch.slice(start, length), out)?;
            hand_over(out)?;
        }
        Ok(())
    }

    fn encode_share(&self, keys: &[u64], scores: &[u64], batch: &RecordBatch, out: &mut Arena) -> Result<()> {
        let id = batch.column(0);
        let wrong = |error| Error::usage(format!("cannot order these columns: {error}"));
        let ids = self.id.convert_columns(std::slice::from_ref(id)).map_err(wrong)?;
        let rest_count = batch.num_columns() - 1 - usize::from(self.with_tokens);
        let rest_columns = &batch.columns()[1..=rest_count];
        let rest = self.rest.as_ref().map(|rest| rest.convert_columns(rest_columns)).transpose().map_err(wrong)?;
        let tokens = self.with_tokens.then(|| tokens(batch.column(batch.num_columns() - 1))).transpose()?;
        for (at, key) in keys.iter().enumerate() {
            let id = ids.row(at);
            let key = key.to_be_bytes();
            let token = tokens.as_ref().map(|tokens| tokens.as_primitive::<UInt64Type>().value(at).to_be_bytes());
            let token: &[u8] = token.as_ref().map_or(&[], |bytes| bytes.as_slice());
            let id = id.as_ref();
            let score = self.with_score.then(|| scores[at].to_be_bytes());
            let score: &[u8] = score.as_ref().map_or(&[], |bytes| bytes.as_slice());
            match &rest {
                Some(rest) => out.push(&[&key, id, score, rest.row(at).as_ref(), token], id.len() as u32),
                None => out.push(&[&key, id, score, token], id.len() as u32),
            }
        }
        Ok(())
    }
}

/// Bytes of the longest row of strings; ids and kept values have their limits.
fn check_lengths(batch: &RecordBatch) -> Result<usize> {
    let mut row_bytes = 0;
    for (at, column) in batch.columns().iter().enumerate() {
        // A view's low 32 bits are its length.
        let longest = match column.data_type() {
            DataType::Utf8View => column.as_string_view().views().iter().map(|view| *view as u32).max(),
            DataType::BinaryView => column.as_binary_view().views().iter().map(|view| *view as u32).max(),
            _ => None,
        };
        let longest = longest.unwrap_or(16) as usize;
        let (what, limit) = if at == 0 { ("an id", MAX_ID_BYTES) } else { ("a kept value", MAX_REST_BYTES) };
        if longest > limit {
            let name = batch.schema_ref().field(at).name().clone();
            return Err(Error::usage(format!("column {name:?}: {what} of {longest} bytes; the limit is {limit}")));
        }
        row_bytes += longest;
    }
    Ok(row_bytes)
}

/// Token counts as unsigned 64-bit integers; nulls stay null.
pub fn tokens(column: &ArrayRef) -> Result<ArrayRef> {
    arrow_cast::cast(column, &DataType::UInt64).map_err(|error| Error::usage(format!("token counts: {error}")))
}

impl Columns {
    /// Source and kept columns.
    pub fn rest(&self) -> Vec<&Column> {
        self.source.iter().chain(&self.kept).collect()
    }

    /// The columns that a row's encoding is made of.
    pub fn winning(&self, with_tokens: bool) -> Vec<&Column> {
        let mut columns = vec![&self.id];
        columns.extend(self.rest());
        if with_tokens {
            columns.extend(&self.tokens);
        }
        columns
    }

    /// The schema of `selection.parquet`.
    pub fn selection_schema(&self) -> SchemaRef {
        let mut fields = vec![
            Field::new("uid", self.id.output.clone(), false),
            Field::new("rank", DataType::UInt64, false),
            Field::new("score", self.score.output.clone(), false),
        ];
        fields.extend(self.rest().into_iter().map(|column| Field::new(&column.name, column.output.clone(), true)));
        Arc::new(Schema::new(fields))
    }
}

/// Decodes rows into the columns of a selection.
pub struct Decoder {
    columns: Columns,
    id: RowConverter,
    rest: Option<RowConverter>,
    schema: SchemaRef,
    with_tokens: bool,
    with_score: bool,
    turned: bool,
}

impl Decoder {
    /// The counterpart of [`Encoder::new`]; `turned` says whether the scores' keys were turned round.
    pub fn new(columns: &Columns, with_tokens: bool, with_score: bool, turned: bool) -> Result<Self> {
        let rest = columns.rest();
        let rest = if rest.is_empty() { None } else { Some(converter(&rest)?) };
        let id = converter(&[&columns.id])?;
        Ok(Self {
            columns: columns.clone(),
            id,
            rest,
            schema: columns.selection_schema(),
            with_tokens,
            with_score,
            turned,
        })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Key of a row's score, in the scores' own order.
    pub fn score_key(&self, row: &[u8], tag: u32) -> u64 {
        let at = if self.with_score { KEY_BYTES + tag as usize } else { 0 };
        let mut key = [0; 8];
        key.copy_from_slice(&row[at..at + 8]);
        let key = u64::from_be_bytes(key);
        if self.turned { !key } else { key }
    }

    /// A batch of rows with ranks from `first_rank`.
    pub fn decode(&self, rows: &[Row<'_>], first_rank: u64) -> Result<RecordBatch> {
        let wrong = |error| Error::Bug(format!("a row does not decode: {error}"));
        let front = if self.with_score { 8 } else { 0 };
        let back = if self.with_tokens { 8 } else { 0 };
        let parser = self.id.parser();
        let parts = rows.iter().map(|(row, tag)| {
            let (id, rest) = row[KEY_BYTES..].split_at(*tag as usize);
            (id, &rest[front..rest.len() - back])
        });
        let ids = self.id.convert_rows(parts.clone().map(|(id, _)| parser.parse(id))).map_err(wrong)?;
        let ranks = arrow_array::UInt64Array::from_iter_values(first_rank..first_rank + rows.len() as u64);
        let scores: Vec<u64> = rows.iter().map(|(row, tag)| self.score_key(row, *tag)).collect();
        let mut arrays: Vec<ArrayRef> = vec![
            to_output(&ids[0], &self.columns.id)?,
            Arc::new(ranks),
            scores_from_keys(&scores, &self.columns.score.output)?,
        ];
        if let Some(rest) = &self.rest {
            let parser = rest.parser();
            let decoded = rest.convert_rows(parts.map(|(_, rest)| parser.parse(rest))).map_err(wrong)?;
            for (array, column) in decoded.iter().zip(self.columns.rest()) {
                arrays.push(to_output(array, column)?);
            }
        }
        RecordBatch::try_new(self.schema.clone(), arrays).map_err(wrong)
    }
}

fn to_output(array: &ArrayRef, column: &Column) -> Result<ArrayRef> {
    if array.data_type() == &column.output {
        return Ok(array.clone());
    }
    arrow_cast::cast(array, &column.output).map_err(|error| Error::Bug(format!("column {:?}: {error}", column.name)))
}
