//! Panics of user code: they end what panicked, with a report, and nothing else.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Once;

use futures_util::FutureExt;

thread_local! {
    static CONTAINED: Cell<Contained> = const { Cell::new(Contained::No) };
    /// The report of the last panic inside.
    static REPORT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Whether this thread is inside of [`contained`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contained {
    No,
    Yes,
    /// And there was a panic.
    Panicked,
}

/// Runs a future, and turns its panic into a report with the place in the source.
pub(super) async fn contained<T>(future: Pin<&mut impl Future<Output = T>>) -> Result<T, String> {
    install_hook();
    let mut future = AssertUnwindSafe(future).catch_unwind();
    poll_fn(move |cx| {
        CONTAINED.set(Contained::Yes);
        let polled = future.poll_unpin(cx);
        let report = match CONTAINED.replace(Contained::No) {
            Contained::Panicked => REPORT.take(),
            Contained::Yes | Contained::No => None,
        };
        polled.map(|done| done.map_err(|_| report.unwrap_or_else(|| "it panicked".to_owned())))
    })
    .await
}

/// Whether user code is running on this thread, so that no other may inside of it.
pub(super) fn is_inside() -> bool {
    CONTAINED.get() != Contained::No
}

/// Drops a value whose destructor is user code.
pub(super) fn discard<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

/// Panics of actors are reported by their supervisor; all others go on to the hook that was there before.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if is_inside() {
                CONTAINED.set(Contained::Panicked);
                let place = info.location();
                let place = place.map(|l| format!(" ({}:{})", l.file(), l.line()));
                let report = message(info.payload()) + &place.unwrap_or_default();
                // Not while the thread ends.
                let _ = REPORT.try_with(|place| place.replace(Some(report)));
            } else {
                previous(info);
            }
        }));
    });
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_a_report_with_its_place() {
        let report = contained(pin!(async { panic!("bad argument: {}", 7) })).await;
        let report: String = report
            .err()
            .unwrap_or_else(|| unreachable!("it panics"))
            .to_string();
        assert!(report.starts_with("bad argument: 7 (src"), "{report}");
        assert_eq!(contained(pin!(async { 5 })).await, Ok(5));
    }
}
