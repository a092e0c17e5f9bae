//! What happens where the system gives no more memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use vlmsel_shards::out_of_memory::{is_of_zstd, panic_text};

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
        end(format_args!(" (needed {size} bytes)"));
    }
    memory
}

/// Ends the process without asking for memory, and without waiting for anything that another thread may hold.
#[cold]
fn end(needed: std::fmt::Arguments<'_>) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if ENDING.swap(true, Ordering::Relaxed) {
        // Another thread ran into the same and is about to say so; one message is enough.
        std::thread::sleep(std::time::Duration::from_millis(100));
    } else {
        let mut text = [0; 256];
        let mut rest = text.as_mut_slice();
        let _ = writeln!(
            rest,
            "Error: out of memory{needed}; lower --memory-limit or --threads, or raise the limit of the process (ulimit -v), \
             and run the same command again"
        );
        let unused = rest.len();
        let written = text.len() - unused;
        // SAFETY: so many bytes are there. Where nobody reads stderr, the exit code still tells.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), written) };
    }
    // SAFETY: it asks for nothing.
    unsafe { libc::_exit(EXIT_CODE) }
}

/// To be called once, when the module is loaded.
pub fn prepare() {
    share_the_heap_where_addresses_are_few();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic_text(panic.payload()).is_some_and(is_of_zstd) {
            end(format_args!(" (for zstd)"));
        }
        usual(panic);
    }));
}

/// Under a limit of the address space (`ulimit -v`), threads take memory from one heap. Of the GNU library they get 64 MiB of
/// addresses each, which count against the limit whether used or not: a run that needs 100 MiB would fail within 300.
fn share_the_heap_where_addresses_are_few() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: both calls only read and write what they are given, and no other thread of ours runs yet.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) == 0 && limit.rlim_cur != libc::RLIM_INFINITY {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}
