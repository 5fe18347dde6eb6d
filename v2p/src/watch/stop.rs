//! When a watch ends.

use std::{future::poll_fn, task::Poll, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use super::signals;

/// When to stop.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    /// Others that end it.
    others: Vec<Signal>,
    /// A signal came.
    told: bool,
    duration: Option<Duration>,
    deadline: Option<Instant>,
}

impl Stop {
    /// Stops at SIGINT, SIGTERM, or `duration` after the watch has begun.
    ///
    /// # Errors
    /// Where the signals cannot be caught.
    pub fn new(duration: Option<Duration>) -> Result<Self> {
        Ok(Self {
            interrupt: caught(SignalKind::interrupt())?,
            terminate: caught(SignalKind::terminate())?,
            others: Vec::new(),
            told: false,
            duration,
            deadline: None,
        })
    }

    /// Also at SIGHUP, which `nohup` would keep from us, and at whatever else asks a process to end: for what shows something on a terminal alone,
    /// which is to have it back.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn or_whatever_asks(mut self) -> Result<Self> {
        let kinds = [
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::alarm(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        self.others = kinds.into_iter().map(caught).collect::<Result<_>>()?;
        Ok(self)
    }

    /// The watch is live.
    pub(super) fn begins(&mut self) {
        let duration = self.duration.take();
        self.deadline = duration.and_then(|duration| Instant::now().checked_add(duration));
    }

    /// Whether a signal has told so by now.
    pub(super) async fn was_told(&mut self) -> bool {
        // Signals come to the handlers by a turn of the runtime.
        tokio::task::yield_now().await;
        self.told = tokio::select! {
            biased;
            _ = self.reached() => true,
            () = std::future::ready(()) => false,
        };
        self.told
    }

    pub(super) async fn reached(&mut self) -> &'static str {
        if self.told {
            return "signal";
        }
        let far = Instant::now() + Duration::from_secs(86_400 * 365);
        let other = poll_fn(|context| {
            let mut others = self.others.iter_mut();
            match others.any(|other| other.poll_recv(context).is_ready()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        tokio::select! {
            _ = self.interrupt.recv() => "signal",
            _ = self.terminate.recv() => "signal",
            () = other => "signal",
            () = tokio::time::sleep_until(self.deadline.unwrap_or(far)), if self.deadline.is_some() => "duration",
        }
    }
}

/// Every such signal from now on. One that came between the setting of the handler and the word whose it is would be taken, and told to nobody
/// (register_unchecked_impl, signal-hook-registry 1.4.8): none comes in between.
fn caught(kind: SignalKind) -> Result<Signal> {
    let catch = || {
        let _held = signals::hold()?;
        signal(kind)
    };
    catch().context("signal handler")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_runs_from_when_the_watch_begins() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut stop = Stop::new(Some(Duration::ZERO)).unwrap();
            let early = tokio::time::timeout(Duration::from_millis(20), stop.reached()).await;
            assert!(early.is_err(), "{early:?}");
            stop.begins();
            assert_eq!(stop.reached().await, "duration");
        });
    }
}
