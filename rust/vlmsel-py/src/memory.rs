//! What happens where the system gives no more memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;

/// The system's allocator, which ends the process with exit code 6 and a message where it has no memory left. Rust would
/// abort, which looks like a bug; and going on is not possible, because Rust code that asks for memory cannot be told no.
struct OrExit;

/// That of errors of the class [`vlmsel_shards::error::Class::Resource`].
const EXIT_CODE: libc::c_int = 6;

#[global_allocator]
static ALLOCATOR: OrExit = OrExit;

// SAFETY: every call is handed on to `System` as it came, and so is what it answers, unless that is null.
unsafe impl GlobalAlloc for OrExit {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `System` asks for; so in all of these.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.realloc(memory, layout, new_size) }, new_size)
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[inline]
fn given(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() {
        exit(size);
    }
    memory
}

/// Ends the process without asking for memory, and without waiting for anything that another thread may hold.
#[cold]
fn exit(size: usize) -> ! {
    let mut text = [0; 256];
    let mut rest = text.as_mut_slice();
    let _ = writeln!(
        rest,
        "Error: out of memory (needed {size} bytes); lower --memory-limit or --threads, or raise the limit of the process \
         (ulimit -v), and run the same command again"
    );
    let unused = rest.len();
    let written = text.len() - unused;
    // SAFETY: the bytes are there; 2 is stderr, and where nobody reads it the exit code still tells.
    unsafe {
        libc::write(2, text.as_ptr().cast(), written);
        libc::_exit(EXIT_CODE)
    }
}
