//! From an image's bytes to its codes, in any thread, within what memory there is.

use std::cell::RefCell;
use std::sync::{Condvar, Mutex, PoisonError};

use vlmsel_core::image_code::{Scaler, image_codes};
use vlmsel_shards::formats::sample::{Coded, Kept, Sample};
use vlmsel_shards::images::pixels::{MOST_BYTES_PER_PIXEL, luma, size_to_decode};

use crate::error::Result;

/// What all pictures that are decoded at a time may take where no limit is set. A larger one is decoded by itself.
const USUAL_ROOM: u64 = 1 << 30;
/// Smaller pictures do not ask for room: the threads' own share of the memory limit holds them.
const SMALL_BYTES: u64 = 24 << 20;

thread_local! {
    static SCALER: RefCell<Scaler> = RefCell::default();
}

/// Decodes pictures and codes them.
#[derive(Debug)]
pub(crate) struct Coder {
    limit: u64,
    /// Bytes that large pictures take now.
    taken: Mutex<u64>,
    freed: Condvar,
}

impl Coder {
    /// Within so many bytes of memory; 0 for no limit.
    pub fn new(memory_limit: u64) -> Self {
        Self { limit: memory_limit, taken: Mutex::default(), freed: Condvar::new() }
    }

    /// The codes of a picture, or why it has none.
    ///
    /// # Errors
    /// [`vlmsel_shards::Error::Resource`] for a picture that the memory limit does not allow to decode: which pictures have codes
    /// must not depend on it.
    pub fn code(&self, bytes: &[u8]) -> Result<Coded> {
        let header = match size_to_decode(bytes) {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault.reason())),
        };
        let needed = u64::from(header.width) * u64::from(header.height) * MOST_BYTES_PER_PIXEL;
        if self.limit > 0 && needed > self.limit.max(SMALL_BYTES) {
            let text = format!(
                "a picture of {} x {} pixels takes up to {needed} bytes to decode, --memory-limit is {}; raise the limit",
                header.width, header.height, self.limit
            );
            return Err(vlmsel_shards::Error::Resource(text).into());
        }
        let _room = Room::take(self, if needed <= SMALL_BYTES { 0 } else { needed });
        Ok(match luma(bytes) {
            Ok(plane) => {
                Ok(SCALER.with_borrow_mut(|scaler| image_codes(&plane.luma, plane.width, plane.height, scaler)))
            }
            Err(fault) => Err(fault.reason()),
        })
    }

    /// Puts codes into the place of bytes that a sample's images kept.
    ///
    /// # Errors
    /// As [`Coder::code`].
    pub fn code_sample(&self, sample: &mut Sample) -> Result<()> {
        for image in &mut sample.images {
            if let Kept::Bytes(bytes) = &image.kept {
                image.kept = Kept::Codes(self.code(bytes)?);
            }
        }
        Ok(())
    }
}

/// Memory for one large picture, given back when it is dropped. Who waits for it holds none, so somebody always goes on.
struct Room<'a> {
    of: &'a Coder,
    bytes: u64,
}

impl<'a> Room<'a> {
    fn take(of: &'a Coder, bytes: u64) -> Self {
        if bytes > 0 {
            let room = if of.limit > 0 { of.limit } else { USUAL_ROOM };
            let taken = of.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let is_full = |taken: &mut u64| *taken > 0 && *taken + bytes > room;
            let mut taken = of.freed.wait_while(taken, is_full).unwrap_or_else(PoisonError::into_inner);
            *taken += bytes;
        }
        Self { of, bytes }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            *self.of.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
            self.of.freed.notify_all();
        }
    }
}
