//! Reading a shard of any form to its end: records are taken apart by a pool of threads and handed over in the file's order.

use rayon::ThreadPool;
use rayon::prelude::*;
use vlmsel_shards::formats::reader::{Batch, Closing, Damage, Depth, ReadOptions, Record, Shard};
use vlmsel_shards::formats::sample::Taken;
use vlmsel_shards::storage::stand_in::refuse_stand_in_at;
use vlmsel_shards::workspace::quarantine::Quarantined;

use crate::codes::coder::Coder;
use crate::error::Result;
use crate::sources::ShardFile;

/// What a shard holds, in its order.
#[allow(clippy::large_enum_variant, reason = "nearly all are records, and each is handed on at once")]
pub enum Found {
    /// A sample, or a record of which nothing can be used.
    Record(Taken),
    /// Something that belongs to no sample.
    Stray(Quarantined),
    /// So many bytes of the file were passed, and so many records.
    Passed(u64, u64),
}

/// Reads a shard to its end and gives what it finds to `take`. A `coder` makes codes of images whose bytes are handed over
/// ([`Depth::Contents`]). What is wrong with the file as a whole is in what it returns.
///
/// # Errors
/// Those of the system, and those of `take`.
pub(crate) fn read_shard(
    file: &ShardFile,
    image_root: &std::path::Path,
    options: &ReadOptions,
    depth: Depth,
    pool: &ThreadPool,
    coder: Option<&Coder>,
    take: &mut dyn FnMut(Found) -> Result<()>,
) -> Result<Closing> {
    let only = |damage| Ok(Closing { damage: vec![damage], ..Closing::default() });
    if let Some(fault) = &file.fault {
        return only(Damage::unreadable(fault));
    }
    let (unit, sidecar_unit) = (file.unit(), file.sidecar_unit());
    let sidecar = file.sidecar.as_deref().map(|path| (sidecar_unit.as_str(), path));
    let shard = Shard { unit: &unit, path: &file.path, sidecar, image_root, options, depth };
    let opened = refuse_stand_in_at(&file.path).and_then(|()| file.format.open(&shard));
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(error) if error.is_of_file() => return only(Damage::unreadable(error)),
        Err(error) => return Err(error.into()),
    };
    while let Some(Batch { records, bytes, is_costly }) = reader.next_batch()? {
        let count = records.len() as u64;
        if is_costly {
            let found: Vec<Found> = pool
                .install(|| records.into_par_iter().map(|record| take_apart(record, coder)).collect::<Result<_>>())?;
            take(Found::Passed(bytes, count))?;
            found.into_iter().try_for_each(&mut *take)?;
        } else {
            take(Found::Passed(bytes, count))?;
            records.into_iter().try_for_each(|record| take(take_apart(record, coder)?))?;
        }
    }
    Ok(reader.close())
}

fn take_apart(record: Record, coder: Option<&Coder>) -> Result<Found> {
    Ok(match record {
        Record::Raw(raw) => {
            let mut taken = raw.take_apart()?;
            if let (Some(coder), Ok(sample)) = (coder, &mut taken) {
                coder.code_sample(sample)?;
            }
            Found::Record(taken)
        }
        Record::Stray(stray) => Found::Stray(stray),
    })
}
