//! Entering Rust: the work runs in its own thread without the GIL while this one shows progress and listens for Ctrl-C.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use vlmsel_pipeline::Error;
use vlmsel_pipeline::progress::Progress;
use vlmsel_pipeline::threads::start;
use vlmsel_shards::error::ErrorClass;
use vlmsel_shards::out_of_memory::panic_text;

/// How often progress is shown and signals are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Runs `work` without the GIL. `watch(records, records_total, bytes, bytes_total)` is called every tick.
///
/// The first Ctrl-C cancels the work and waits for it; a second one ends the process at once with status 130.
pub fn enter<T: Send>(
    py: Python<'_>,
    watch: Option<Py<PyAny>>,
    work: impl FnOnce(&Progress) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let progress = Progress::default();
    let mut interrupt: Option<PyErr> = None;
    let outcome = std::thread::scope(|scope| {
        let (send, receive) = channel();
        let shared = &progress;
        let started = start(scope, move || {
            let result = catch_unwind(AssertUnwindSafe(|| work(shared)));
            let _ = send.send(result);
        });
        if let Err(error) = started {
            return Some(Ok(Err(error)));
        }
        // The receiver may not move into `detach` on every platform; a Mutex makes it shareable at no cost here.
        let receive = std::sync::Mutex::new(receive);
        loop {
            let received =
                py.detach(|| receive.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv_timeout(TICK));
            match received {
                Ok(result) => return Some(result),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let mut stop = |error: PyErr| {
                if interrupt.is_some() {
                    std::process::exit(130);
                }
                progress.cancel();
                interrupt = Some(error);
            };
            if let Err(error) = py.check_signals() {
                stop(error);
            } else if let Some(watch) = watch.as_ref().filter(|_| !progress.is_cancelled()) {
                let now = progress.snapshot();
                if let Err(error) = watch.call1(py, (now.records, now.records_total, now.bytes, now.bytes_total)) {
                    stop(error);
                }
            }
        }
    });
    match (outcome, interrupt) {
        (Some(Ok(Ok(value))), None) => Ok(value),
        (_, Some(error)) => Err(error),
        (Some(Ok(Err(error))), None) => Err(raise(py, &error)),
        (Some(Err(panic)), None) => Err(bug(py, panic_text(panic.as_ref()).unwrap_or("a panic without a message"))),
        (None, None) => Err(bug(py, "the worker thread vanished")),
    }
}

fn bug(py: Python<'_>, message: &str) -> PyErr {
    instance(py, "VlmselError", &format!("bug in vlmsel: {message}"))
}

/// The Python exception for an error.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let name = match error.class() {
        ErrorClass::Bug => "VlmselError",
        ErrorClass::Usage => "UsageError",
        ErrorClass::NotFound => "NotFoundError",
        ErrorClass::Unreadable => "UnreadableError",
        ErrorClass::Locked => "LockedError",
        ErrorClass::Strict => "StrictError",
        ErrorClass::Resource => "ResourceError",
        ErrorClass::Mismatch => "MismatchError",
        ErrorClass::Cancelled => return PyErr::new::<pyo3::exceptions::PyKeyboardInterrupt, _>(error.to_string()),
    };
    instance(py, name, &error.to_string())
}

/// The same for an error of the shards crate.
pub fn raise_shards(py: Python<'_>, error: vlmsel_shards::Error) -> PyErr {
    raise(py, &Error::Shards(error))
}

fn instance(py: Python<'_>, name: &str, message: &str) -> PyErr {
    let made =
        py.import("vlmsel.errors").and_then(|module| module.getattr(name)).and_then(|class| class.call1((message,)));
    match made {
        Ok(value) => PyErr::from_value(value),
        Err(_) => PyRuntimeError::new_err(message.to_owned()),
    }
}
