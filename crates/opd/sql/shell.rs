//! The shell: what is typed on a terminal, with history and completion.

use super::{
    complete::{Names, complete},
    console::{Console, End},
    editor::{self, Typed},
    history::History,
    line::Language,
    statements::{is_blank, split},
};
use crate::{
    error::{CommandError, Result, off_thread},
    output::say,
};

/// Reads and answers until the end is asked for.
///
/// # Errors
/// If the terminal cannot be read. What has no answer says so and is passed over.
pub async fn run(mut console: Console) -> Result<End> {
    say("`\\?` lists the commands; a question ends with `;`");
    let mut history = History::of_user();
    loop {
        let (prompt, earlier, names) = (console.prompt(), history.texts().to_vec(), console.names());
        let typed = off_thread(move || {
            let broken = |error| CommandError::new(format!("the terminal cannot be read: {error}"));
            editor::read(&prompt, &earlier, &Sql(names)).map_err(broken)
        });
        let text = match typed.await? {
            Typed::Text(text) => text,
            Typed::Dropped => continue,
            Typed::End => return Ok(End::Done),
        };
        if is_blank(&text) {
            continue;
        }
        history.add(text.trim());
        for input in split(&text).0 {
            match console.take(&input).await {
                Ok(None) => {}
                Ok(Some(End::Done)) => return Ok(End::Done),
                Ok(Some(End::Interrupted)) => {
                    say("stopped");
                    break;
                }
                Err(error) => {
                    say(&format!("error: {error}"));
                    break;
                }
            }
        }
    }
}

/// SQL over what there is to name.
struct Sql(Names);

impl Language for Sql {
    fn is_whole(&self, text: &str) -> bool {
        is_blank(split(text).1)
    }

    fn complete(&self, text: &str, cursor: usize) -> (usize, Vec<String>) {
        complete(&self.0, text, cursor)
    }
}
