//! From the columns of rows that may win to the byte strings that order them, and back.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, UInt64Type};
use arrow_array::{Array, ArrayRef, Decimal128Array, RecordBatch};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use vlmsel_shards::columns::cast_whole;
use vlmsel_shards::columns::score::{scores_from_keys, share_keys};
use vlmsel_shards::columns::{Column, MAX_ID_BYTES};

use super::plan::Columns;
use super::row::{IdPlace, KEY_BYTES, Row, SourcePlace, key_of};
use super::row_layout::Layout;
use crate::arena::Arena;
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
    layout: Layout,
    /// Whether batches hold the score.
    in_full: bool,
    /// The last score, in full, that was asked for.
    last: Option<[u8; 16]>,
}

impl Encoder {
    /// For the columns of a request. `last` is the worst score within a threshold where keys do not tell.
    pub fn new(columns: &Columns, layout: Layout, last: Option<i128>) -> Result<Self> {
        let rest = columns.rest();
        let rest = if rest.is_empty() { None } else { Some(converter(&rest)?) };
        let last = last.map(|last| layout.full(last));
        Ok(Self { id: converter(&[&columns.id])?, rest, layout, in_full: columns.scores_in_full(), last })
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
        let with_tokens = self.layout.with_tokens;
        let first = 1 + usize::from(self.in_full);
        let rest_columns = &batch.columns()[first..batch.num_columns() - usize::from(with_tokens)];
        let rest = self.rest.as_ref().map(|rest| rest.convert_columns(rest_columns)).transpose().map_err(wrong)?;
        let tokens = with_tokens.then(|| tokens(batch.column(batch.num_columns() - 1))).transpose()?;
        let tokens = tokens.as_ref().map(AsArray::as_primitive::<UInt64Type>);
        let full = self.in_full.then(|| batch.column(1).as_primitive::<Decimal128Type>());
        for (at, key) in keys.iter().enumerate() {
            let id = ids.row(at);
            let key = key.to_be_bytes();
            let token = tokens.map(|tokens| tokens.value(at).to_be_bytes());
            let token: &[u8] = token.as_ref().map_or(&[], |bytes| bytes.as_slice());
            let full = full.map(|full| self.layout.full(full.value(at)));
            if full.is_some_and(|full| self.last.is_some_and(|last| full > last)) {
                continue;
            }
            let key_of_score = scores.get(at).map(|score| score.to_be_bytes());
            let score: &[u8] = match (&full, &key_of_score) {
                (Some(full), _) => full,
                (None, Some(key)) => key,
                (None, None) => &[],
            };
            let (head, score): (&[u8], &[u8]) = if self.layout.is_random() { (&[], score) } else { (score, &[]) };
            let id = id.as_ref();
            let place = IdPlace::new(KEY_BYTES + head.len(), id.len());
            match &rest {
                Some(rest) => out.push(&[&key, head, id, score, rest.row(at).as_ref(), token], place.tag()),
                None => out.push(&[&key, head, id, score, token], place.tag()),
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

    /// Where encoded rows have their source.
    pub fn source_place(&self, layout: Layout) -> Option<SourcePlace> {
        let score_bytes = if self.scores_in_full() { 16 } else { 8 };
        self.source.as_ref().map(|_| SourcePlace(if layout.is_random() { score_bytes } else { 0 }))
    }

    /// Whether different scores may share a key.
    pub fn scores_in_full(&self) -> bool {
        share_keys(&self.score.working)
    }

    /// The columns that a row's encoding is made of.
    pub fn winning(&self, with_tokens: bool) -> Vec<&Column> {
        let mut columns = vec![&self.id];
        if self.scores_in_full() {
            columns.push(&self.score);
        }
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
    layout: Layout,
}

impl Decoder {
    /// The counterpart of [`Encoder::new`].
    pub fn new(columns: &Columns, layout: Layout) -> Result<Self> {
        let rest = columns.rest();
        let rest = if rest.is_empty() { None } else { Some(converter(&rest)?) };
        let id = converter(&[&columns.id])?;
        Ok(Self { columns: columns.clone(), id, rest, schema: columns.selection_schema(), layout })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// A batch of rows with ranks from `first_rank`.
    pub fn decode(&self, rows: &[Row<'_>], first_rank: u64) -> Result<RecordBatch> {
        let wrong = |error| Error::Bug(format!("a row does not decode: {error}"));
        let score_bytes = if self.columns.scores_in_full() { 16 } else { 8 };
        let front = if self.layout.is_random() { score_bytes } else { 0 };
        let back = if self.layout.with_tokens { 8 } else { 0 };
        let parser = self.id.parser();
        let parts = rows.iter().map(|(row, tag)| {
            let (id, rest) = IdPlace::of_tag(*tag).split(row);
            (id, &rest[front..rest.len() - back])
        });
        let ids = self.id.convert_rows(parts.clone().map(|(id, _)| parser.parse(id))).map_err(wrong)?;
        let ranks = arrow_array::UInt64Array::from_iter_values(first_rank..first_rank + rows.len() as u64);
        let mut arrays: Vec<ArrayRef> =
            vec![to_output(&ids[0], &self.columns.id)?, Arc::new(ranks), self.decode_scores(rows)?];
        if let Some(rest) = &self.rest {
            let parser = rest.parser();
            let decoded = rest.convert_rows(parts.map(|(_, rest)| parser.parse(rest))).map_err(wrong)?;
            for (array, column) in decoded.iter().zip(self.columns.rest()) {
                arrays.push(to_output(array, column)?);
            }
        }
        RecordBatch::try_new(self.schema.clone(), arrays).map_err(wrong)
    }

    fn decode_scores(&self, rows: &[Row<'_>]) -> Result<ArrayRef> {
        let random = self.layout.is_random();
        if self.columns.scores_in_full() {
            let values = rows.iter().map(|(row, tag)| {
                let start = if random { IdPlace::of_tag(*tag).end() } else { KEY_BYTES };
                self.layout.value(row[start..].first_chunk().copied().unwrap_or_default())
            });
            let values = Decimal128Array::from_iter_values(values).with_data_type(self.columns.score.working.clone());
            return to_output(&(Arc::new(values) as ArrayRef), &self.columns.score);
        }
        let keys: Vec<u64> = rows
            .iter()
            .map(|(row, tag)| {
                let key = key_of(if random { &row[IdPlace::of_tag(*tag).end()..] } else { row });
                if self.layout.reversed { !key } else { key }
            })
            .collect();
        Ok(scores_from_keys(&keys, &self.columns.score.output)?)
    }
}

fn to_output(array: &ArrayRef, column: &Column) -> Result<ArrayRef> {
    if array.data_type() == &column.output {
        return Ok(array.clone());
    }
    cast_whole(array, &column.output).map_err(|error| Error::Bug(format!("column {:?}: {error}", column.name)))
}
