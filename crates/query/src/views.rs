//! Questions that come up again and again, as tables of their own. A view is SQL over the other tables of its store, whose schema stands for `{store}`.

use crate::columns::comment;
use arrow::datatypes::{Schema, SchemaRef};
use std::sync::Arc;

/// A view, with what it and each of its columns holds.
pub(crate) struct View {
    pub name: &'static str,
    text: &'static str,
    columns: &'static [(&'static str, &'static str)],
    sql: &'static str,
}

/// Every view.
pub(crate) const VIEWS: [View; 3] = [
    View {
        name: "throughput",
        text: "One row is one worker: its tokens a second. A view over `work`.",
        columns: &[
            ("job", "What the worker does."),
            ("worker", "Who."),
            ("commits", "Commits with tokens."),
            ("tokens", "Tokens sampled, scored, trained or evaluated."),
            ("busy_s", "Seconds spent working."),
            ("waited_s", "Seconds spent waiting, for input or for room."),
            ("tokens_per_busy_s", "Tokens for each second of work."),
            ("tokens_per_s", "Tokens for each second from its first work to its last commit."),
        ],
        sql: "select job, worker, count(*) as commits, sum(tokens) as tokens, sum(busy_s) as busy_s, \
              sum(waited_s) as waited_s, sum(tokens) / nullif(sum(busy_s), 0) as tokens_per_busy_s, \
              sum(tokens) / nullif((cast(max(ended) as bigint) - cast(min(started) as bigint)) / 1000.0, 0) \
              as tokens_per_s from {store}.work where tokens > 0 group by job, worker",
    },
    View {
        name: "staleness",
        text: "One row is one staleness of what was trained on, and what it did there. A view over `tokens`.",
        columns: &[
            ("staleness", "Policy versions the learner was ahead of the sampler."),
            ("positions", "Positions trained on at it."),
            ("reverse_kl", "Mean estimate of KL(learner || teacher); nats a token."),
            ("forward_kl", "Mean KL(teacher || learner) over the teacher's top-k and a tail; nats a token."),
            ("entropy", "Mean entropy of the learner; nats."),
            ("is_mean", "Mean importance ratio of learner to sampler."),
            ("is_ess", "Effective sample size of the importance ratios, as a fraction of the positions."),
        ],
        sql: "select staleness, count(*) as positions, avg(reverse_kl) as reverse_kl, avg(forward_kl) as forward_kl, \
              avg(entropy) as entropy, avg(exp(learner_logprob - sampler_logprob)) as is_mean, \
              ess(exp(learner_logprob - sampler_logprob)) / count(*) as is_ess \
              from {store}.tokens where step is not null group by staleness",
    },
    View {
        name: "budgets",
        text: "One row is one policy version at one smaller teacher top-k: what it costs and keeps. A view over `tokens`.",
        columns: &[
            ("policy_version", "The policy version that sampled; a filter on it opens its objects alone."),
            ("k", "At most this many of the teacher's entries a position."),
            ("positions", "Positions it is a mean over."),
            ("entries", "Mean entries a position that are left."),
            ("bytes", "Mean bytes a position as plain columns, without draws: cache_bytes(entries, 0)."),
            ("teacher_mass", "Mean mass of the teacher in them."),
        ],
        sql: "select policy_version, b['k'] as k, b['positions'] as positions, b['entries'] as entries, b['bytes'] as bytes, \
              b['teacher_mass'] as teacher_mass from (select policy_version, unnest(by_k) as b from ( \
              select policy_version, top_k_budgets(teacher_top_logprobs) as by_k from {store}.tokens group by policy_version))",
    },
];

impl View {
    /// It as SQL over the tables of `schema`.
    pub fn sql(&self, schema: &str) -> String {
        self.sql.replace("{store}", schema)
    }

    /// The schema that its plan has, with the sentences.
    pub fn described(&self, planned: &Schema) -> SchemaRef {
        let text = |name: &str| self.columns.iter().find(|(column, _)| *column == name).map_or("", |(_, text)| text);
        let fields = planned.fields().iter().map(|field| {
            let metadata = comment(text(field.name()));
            field.as_ref().clone().with_metadata(metadata)
        });
        Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), comment(self.text)))
    }
}
