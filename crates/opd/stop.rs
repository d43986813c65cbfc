//! Ending well: the first Ctrl-C lets the object in hand and its commit be finished, a second one leaves at once.

use std::{sync::Arc, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Exit status after a second Ctrl-C, as shells have it.
pub const EXIT_INTERRUPTED: i32 = 130;

/// Set in the environment of a job whose parent holds the other end of its standard input.
pub const SUPERVISED: &str = "OPD_SUPERVISED";

/// Whether the process has been asked to end.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: watch::Receiver<bool>,
    _keep: Arc<watch::Sender<bool>>,
}

impl Stop {
    /// Listens to SIGINT and SIGTERM and, in a supervised job, for the end of standard input, which is its parent's end.
    pub fn listen() -> Self {
        let (sender, asked) = watch::channel(false);
        let sender = Arc::new(sender);
        let keep = sender.clone();
        tokio::spawn(async move {
            // Without signals the process can still be ended the hard way.
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            let (mut parent, mut signals) = (watch_parent(), 0);
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    () = parent_gone(&mut parent) => {
                        // No request of its own: on a terminal the signal comes to parent and child alike, in any order.
                        sender.send_replace(true);
                        continue;
                    }
                }
                signals += 1;
                sender.send_replace(true);
                if signals == 2 {
                    leave();
                }
            }
        });
        Self { asked, _keep: keep }
    }

    /// One that is never asked for.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        let (sender, asked) = watch::channel(false);
        Self { asked, _keep: Arc::new(sender) }
    }

    /// Whether to take on nothing more.
    pub fn is_asked(&self) -> bool {
        *self.asked.borrow()
    }

    /// Returns when the end is asked for.
    pub async fn asked(&self) {
        // The sender lives as long as `self`.
        let _ = self.asked.clone().wait_for(|asked| *asked).await;
    }

    /// Sleeps, but not past the moment the end is asked for.
    pub async fn sleep(&self, time: Duration) {
        tokio::select! {
            () = self.asked() => {}
            () = tokio::time::sleep(time) => {}
        }
    }
}

/// Ends the process where it stands. Not `std::process::exit`: that takes libtorch apart while another thread still computes
/// with it, which ended in a segmentation fault now and then.
#[expect(unsafe_code, reason = "the standard library has no exit without destructors")]
pub fn leave() -> ! {
    // SAFETY: `_exit` takes a number and returns nothing; whatever is in hand was to be given up.
    unsafe { libc::_exit(EXIT_INTERRUPTED) }
}

/// Tells when standard input ends. A thread of its own, which nobody waits for: a read cannot be called off.
fn watch_parent() -> Option<tokio::sync::oneshot::Receiver<()>> {
    std::env::var_os(SUPERVISED)?;
    let (gone, parent_gone) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = gone.send(());
    });
    Some(parent_gone)
}

/// Returns when the parent is gone; without one, never.
async fn parent_gone(parent: &mut Option<tokio::sync::oneshot::Receiver<()>>) {
    match parent {
        Some(receiver) => {
            let _ = receiver.await;
            *parent = None;
        }
        None => std::future::pending().await,
    }
}
