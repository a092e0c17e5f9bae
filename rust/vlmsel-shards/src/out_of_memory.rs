//! Memory that a library in C did not get. No allocator of ours sees its requests, and it says so in words alone.

use std::any::Any;

use crate::error::Error;

/// What a panic said, if it said it in words.
pub fn panic_text(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied())
}

/// Whether an error or a panic says that zstd got no memory: its Rust side panics where there is none for a context, and
/// hands on the library's own words in all else.
pub fn is_of_zstd(message: &str) -> bool {
    message.contains("zstd returned null pointer") || message.contains("Allocation error : not enough memory")
}

/// The error for such a message; `None` where it says something else.
pub fn zstd_error(message: &str) -> Option<Error> {
    is_of_zstd(message).then(|| {
        Error::Resource(
            "out of memory (for zstd); lower --memory-limit or --threads, or raise the limit of the process (ulimit -v), and \
             run the same command again"
                .to_owned(),
        )
    })
}
