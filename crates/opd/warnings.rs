//! What the store warns of without failing, a snapshot that was not written or a cache that cannot be used, is said on standard error.

use crate::output::say;
use std::fmt::{Debug, Write};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Shows warnings from here on.
pub fn show() {
    // One that somebody has set before may stay.
    let _ = tracing::subscriber::set_global_default(Warnings);
}

struct Warnings;

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Other crates' warnings are about their own affairs: retries that go well, say.
        *metadata.level() <= Level::WARN && metadata.target().starts_with("store")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        say(&line.text());
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        // Nothing here makes spans; all of them may have one id, which is not 0.
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A warning and what it names.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn text(&self) -> String {
        format!("warning: {}{}", self.message, self.fields)
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, "; {name}: {value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Heard(Mutex<Vec<String>>);

    impl Subscriber for &'static Heard {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            Warnings.enabled(metadata)
        }
        fn event(&self, event: &Event<'_>) {
            let mut line = Line::default();
            event.record(&mut line);
            self.0.lock().unwrap().push(line.text());
        }
        fn new_span(&self, of: &span::Attributes<'_>) -> span::Id {
            Warnings.new_span(of)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_warning_of_the_store_is_a_line_and_nothing_else_is() {
        static HEARD: Heard = Heard(Mutex::new(Vec::new()));
        tracing::subscriber::with_default(&HEARD, || {
            tracing::warn!(target: "store::cache", folder = %"/tmp/x", error = ?3, "it cannot be used");
            tracing::info!(target: "store::cache", "all is well");
            tracing::warn!(target: "object_store::client", "tried again");
        });
        assert_eq!(*HEARD.0.lock().unwrap(), ["warning: it cannot be used; folder: /tmp/x; error: 3"]);
    }
}
