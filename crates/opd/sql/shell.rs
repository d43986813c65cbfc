//! The shell: what is typed on a terminal, with history and completion.

use super::{
    console::{Console, End},
    editor::{Editor, Typed},
    statements::{is_blank, split},
};
use crate::{
    error::{Result, off_thread},
    output::say,
};

/// Reads and answers until the end is asked for.
///
/// # Errors
/// If the terminal cannot be read. What has no answer says so and is passed over.
pub async fn run(mut console: Console) -> Result<End> {
    say("`\\?` lists the commands; a question ends with `;`");
    let mut editor = Editor::open()?;
    loop {
        let (prompt, names) = (console.prompt(), console.names());
        let typed;
        (editor, typed) = off_thread(move || {
            let typed = editor.read(&prompt, names)?;
            Ok((editor, typed))
        })
        .await?;
        let text = match typed {
            Typed::Text(text) => text,
            Typed::Dropped => continue,
            Typed::End => return Ok(End::Done),
        };
        if is_blank(&text) {
            continue;
        }
        editor.remember(text.trim());
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
