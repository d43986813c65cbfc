//! Ctrl-C, for work that may be given up where it stands: not the end of the process, but word of it, at once.

use crate::error::{CommandError, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Who hears of SIGINT.
#[derive(Clone, Debug)]
pub struct Interrupt {
    pressed: watch::Receiver<u64>,
}

impl Interrupt {
    /// From here on SIGINT does not end the process. A thread of its own listens: the others may be computing.
    ///
    /// # Errors
    /// If the operating system gives no thread or no signals.
    pub fn listen() -> Result<Self> {
        let fault = |error: std::io::Error| CommandError::new(format!("cannot listen to Ctrl-C: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(fault)?;
        let mut interrupts = {
            let _of = runtime.enter();
            signal(SignalKind::interrupt()).map_err(fault)?
        };
        let (sender, pressed) = watch::channel(0);
        let listen = move || {
            runtime.block_on(async {
                while interrupts.recv().await.is_some() {
                    sender.send_modify(|times| *times += 1);
                }
            });
        };
        std::thread::Builder::new().name("interrupt".into()).spawn(listen).map_err(fault)?;
        Ok(Self { pressed })
    }

    /// Forgets what was pressed so far.
    pub fn forget(&mut self) {
        self.pressed.mark_unchanged();
    }

    /// Returns when it is pressed.
    pub async fn pressed(&mut self) {
        if self.pressed.changed().await.is_err() {
            // Nobody listens any more, so nobody will hear it.
            std::future::pending().await
        }
    }
}
