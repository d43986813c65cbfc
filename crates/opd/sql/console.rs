//! What a shell and a single question have in common: stores that are asked, a format, and Ctrl-C.

use super::{
    Format,
    command::{self, Command},
    complete::Names,
    output::{self, Output, Shown},
    statements::Input,
};
use crate::{
    error::{CommandError, Result},
    interrupt::Interrupt,
    output::{say, show, unless_gone},
};
use query::Session;
use std::{
    future::Future,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use store::Store;
use tokio::sync::mpsc;

/// A question that takes longer says how far it is.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it says so.
const EVERY: Duration = Duration::from_millis(200);
/// How long a question that was stopped may take to let go of what it holds: so many of these.
const GRACE: u32 = 2;

/// How an input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was answered.
    Done,
    /// Ctrl-C stopped it.
    Interrupted,
}

/// Stores to be asked.
pub struct Console {
    stores: Vec<(Option<String>, Store)>,
    session: Arc<Session>,
    at: Option<u64>,
    format: Format,
    out: Option<PathBuf>,
    timing: bool,
    interrupt: Interrupt,
}

impl Console {
    /// Opens sessions on `stores`; one alone needs no name.
    ///
    /// # Errors
    /// No run in one of them.
    pub async fn open(
        stores: Vec<(Option<String>, Store)>,
        at: Option<u64>,
        format: Format,
        out: Option<PathBuf>,
    ) -> Result<Self> {
        let session = Arc::new(open(&stores, at).await?);
        session.without().for_each(|why| say(&format!("{why}; the rollouts that it recorded are not shown")));
        let interrupt = Interrupt::listen()?;
        Ok(Self { stores, session, at, format, out, timing: false, interrupt })
    }

    /// What there is to name.
    pub fn names(&self) -> Names {
        let columns =
            |schema: &arrow::datatypes::SchemaRef| schema.fields().iter().map(|field| field.name().clone()).collect();
        let tables = self.session.tables().map(|(table, schema)| (table, columns(schema))).collect();
        Names { tables, functions: self.session.functions() }
    }

    /// What the shell shows before an input.
    pub fn prompt(&self) -> String {
        self.at.map_or("opd> ".into(), |seq| format!("opd@{seq}> "))
    }

    /// Does what an input asks for. Nothing where more may follow.
    ///
    /// # Errors
    /// A question that has no answer, an unknown command.
    pub async fn take(&mut self, input: &Input) -> Result<Option<End>> {
        let command = match input {
            Input::Statement(sql) => Command::Ask(sql.clone()),
            Input::Command(line) => command::parse(line)?,
        };
        match command {
            Command::Ask(sql) => {
                if self.ask(&sql).await? == End::Interrupted {
                    return Ok(Some(End::Interrupted));
                }
            }
            Command::At(seq) => self.go_to(seq).await?,
            Command::Format(None) => say(&format!("answers are printed as {}", self.format.name())),
            Command::Format(Some(format)) => self.format = format,
            Command::Timing => {
                self.timing = !self.timing;
                say(if self.timing { "timing is on" } else { "timing is off" });
            }
            Command::Help => show(&command::help())?,
            Command::Quit => return Ok(Some(End::Done)),
        }
        Ok(None)
    }

    async fn go_to(&mut self, at: Option<u64>) -> Result<()> {
        if at.is_some() {
            only_one("`\\at`", self.stores.len())?;
        }
        self.session = Arc::new(open(&self.stores, at).await?);
        self.at = at;
        Ok(())
    }

    /// Answers one question, as the logs stand now.
    ///
    /// # Errors
    /// If it has no answer.
    pub async fn ask(&mut self, sql: &str) -> Result<End> {
        let began = Instant::now();
        let shown = Shown::default();
        let (session, sql, path) = (self.session.clone(), sql.to_string(), self.out.clone());
        let (format, line) = (output::format(self.format), shown.clone());
        let work = async move {
            let session = match session.refreshed().await? {
                Some(session) => Arc::new(session),
                None => session,
            };
            let answered = answer(&session, &sql, format, path.as_deref(), &line).await;
            Ok((session, answered))
        };
        let done = self.unless_interrupted(work, &shown).await;
        shown.end();
        let Some(done) = done else { return Ok(End::Interrupted) };
        let (session, answered) = done?;
        self.session = session;
        answered?;
        if self.timing {
            say(&format!("{:.3} s", began.elapsed().as_secs_f64()));
        }
        Ok(End::Done)
    }

    /// `work`, on other threads than the one that listens; `None` if Ctrl-C came first. Says how far it is.
    async fn unless_interrupted<T: Send + 'static>(
        &mut self,
        work: impl Future<Output = Result<T>> + Send + 'static,
        shown: &Shown,
    ) -> Option<Result<T>> {
        self.interrupt.forget();
        let meter = self.session.meter();
        let mut task = tokio::spawn(work);
        let mut shows = beats(PATIENCE);
        loop {
            tokio::select! {
                biased;
                () = self.interrupt.pressed() => {
                    task.abort();
                    // Tasks of its own end with it, and what it spilt to disk is removed; unless it computes on and on.
                    let mut rest = beats(EVERY);
                    for _ in 0..GRACE {
                        tokio::select! {
                            _ = &mut task => break,
                            _ = rest.recv() => {}
                        }
                    }
                    return None;
                }
                done = &mut task => {
                    let failed = |panic: tokio::task::JoinError| Err(CommandError::new(format!("internal error: {panic}")).hint("please report this"));
                    return Some(done.unwrap_or_else(failed));
                }
                Some(()) = shows.recv() => match meter.progress() {
                    (_, 0) => shown.show("working"),
                    (read, all) => shown.show(&format!("opened {read} of {all} batches")),
                },
            }
        }
    }
}

/// One `first` from now and then one [`EVERY`] time, until nobody listens. From a thread of its own: a question that computes without a
/// pause keeps the runtime's threads, and its timers with them.
fn beats(first: Duration) -> mpsc::Receiver<()> {
    let (beat, beats) = mpsc::channel(1);
    let send = move || {
        std::thread::sleep(first);
        while beat.blocking_send(()).is_ok() {
            std::thread::sleep(EVERY);
        }
    };
    // Where no thread is to be had there is no beat: that a question is at work stays unsaid.
    let _ = std::thread::Builder::new().name("beats".into()).spawn(send);
    beats
}

async fn answer(session: &Session, sql: &str, format: query::Format, path: Option<&Path>, shown: &Shown) -> Result<()> {
    let answer = session.run(sql).await?;
    let mut out = BufWriter::new(Output::open(path, shown)?);
    query::write(answer, format, &mut out).await?;
    unless_gone(out.flush())
}

/// That a commit, which `key` names, is of the one store there is.
///
/// # Errors
/// If there are several: each has a log of its own.
pub fn only_one(key: &str, stores: usize) -> Result<()> {
    match stores {
        0 | 1 => Ok(()),
        _ => Err(CommandError::new(format!("{key} is of one store, and there are {stores}")).hint("open one alone")),
    }
}

/// A session on one store without a name, or on those with names.
async fn open(stores: &[(Option<String>, Store)], at: Option<u64>) -> Result<Session> {
    match stores {
        [(None, store)] => Ok(query::open(store, at).await?),
        named => {
            let named = named.iter().map(|(name, store)| (name.clone().unwrap_or_default(), store.clone()));
            Ok(query::open_all(named.collect(), at).await?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn beats_come_while_every_thread_computes() {
        let (at_work, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (begun, ended) = (at_work.clone(), heard.clone());
        let task = tokio::spawn(async move {
            begun.store(true, Ordering::SeqCst);
            while !ended.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
        });
        while !at_work.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let mut beats = beats(Duration::ZERO);
        assert_eq!((beats.recv().await, beats.recv().await), (Some(()), Some(())));
        heard.store(true, Ordering::SeqCst);
        task.await.unwrap();
    }
}
