//! When a watch ends.

use std::time::Duration;

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
    hangup: Option<Signal>,
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
            hangup: None,
            told: false,
            duration,
            deadline: None,
        })
    }

    /// Also at SIGHUP, which `nohup` would keep from us: for what shows something on a terminal alone.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn or_hangup(mut self) -> Result<Self> {
        self.hangup = Some(caught(SignalKind::hangup())?);
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
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "signal",
            _ = self.terminate.recv() => "signal",
            _ = hangup => "signal",
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
