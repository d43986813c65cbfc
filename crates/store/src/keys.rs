//! Every key of a store is made and read here.
//!
//! Keys carry meaning for people; the length and digest in a commit decide. All keys but those of log entries, snapshots
//! and content-addressed files end in a unique id, so nothing is ever put twice to one key.

use crate::chance::{ALPHABET, unique_id};
use record::{Digest, PolicyVersion};

/// Where a new object goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// A batch of rollouts: `rollouts/v00000007/<batch>-<nonce>.arrow`.
    pub fn rollouts(version: PolicyVersion, batch: &str) -> Self {
        Self(format!("rollouts/{}/{}-{}.arrow", folder(version), plain(batch), unique_id()))
    }

    /// The scores of a batch: `scores/<score set>/<batch>-<nonce>.arrow`.
    pub fn scores(score_set: &str, batch: &str) -> Self {
        Self(format!("scores/{}/{}-{}.arrow", plain(score_set), plain(batch), unique_id()))
    }

    /// What the learner saw in a step: `steps/00000042-<nonce>.arrow`.
    pub fn step(step: u64) -> Self {
        Self(format!("steps/{step:08}-{}.arrow", unique_id()))
    }

    /// The weights of a policy version: `policies/v00000008-<nonce>/model.safetensors`.
    pub fn weights(version: PolicyVersion) -> Self {
        Self(format!("policies/{}-{}/model.safetensors", folder(version), unique_id()))
    }

    /// The optimizer's moments at a policy version: `optimizer/v00000008-<nonce>.safetensors`.
    pub fn moments(version: PolicyVersion) -> Self {
        Self(format!("optimizer/{}-{}.safetensors", folder(version), unique_id()))
    }

    /// Batches of rollouts of the policy versions `first` to `last`: `archive/rollouts/v00000000-v00000007-<nonce>.parquet`.
    pub fn archived_rollouts(first: PolicyVersion, last: PolicyVersion) -> Self {
        Self(format!("archive/rollouts/{}-{}-{}.parquet", folder(first), folder(last), unique_id()))
    }

    /// Their scores in a set: `archive/scores/<score set>/v00000000-v00000007-<nonce>.parquet`.
    pub fn archived_scores(score_set: &str, first: PolicyVersion, last: PolicyVersion) -> Self {
        let (set, first, last) = (plain(score_set), folder(first), folder(last));
        Self(format!("archive/scores/{set}/{first}-{last}-{}.parquet", unique_id()))
    }

    /// Records of the steps `first` to `last`: `archive/steps/00000001-00000280-<nonce>.parquet`.
    pub fn archived_steps(first: u64, last: u64) -> Self {
        Self(format!("archive/steps/{first:08}-{last:08}-{}.parquet", unique_id()))
    }

    /// A file that is stored once, by its content: `policies/<stem>-<digest>.<extension>`.
    pub fn file(name: &str, digest: &Digest) -> Self {
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, "bin"));
        Self(format!("policies/{}-{}.{}", plain(stem), digest.hex(), plain(extension)))
    }

    /// The key's text, relative to the store's root.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an object is, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Log entries, snapshots and history segments.
    Log,
    /// Batches of rollouts.
    Rollouts,
    /// Batches of scores.
    Scores,
    /// Step records.
    Steps,
    /// Weights, config and tokenizer.
    Policies,
    /// Moments.
    Optimizer,
    /// Archives of batches and step records.
    Archive,
    /// Something that is no part of the layout.
    Other,
}

impl Kind {
    /// The kind of object that lies at `key`.
    pub fn of(key: &str) -> Self {
        match key.split_once('/').map(|(folder, _)| folder) {
            Some("log") => Kind::Log,
            Some("rollouts") => Kind::Rollouts,
            Some("scores") => Kind::Scores,
            Some("steps") => Kind::Steps,
            Some("policies") => Kind::Policies,
            Some("optimizer") => Kind::Optimizer,
            Some("archive") => Kind::Archive,
            _ => Kind::Other,
        }
    }

    /// The kind's folder.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Log => "log",
            Kind::Rollouts => "rollouts",
            Kind::Scores => "scores",
            Kind::Steps => "steps",
            Kind::Policies => "policies",
            Kind::Optimizer => "optimizer",
            Kind::Archive => "archive",
            Kind::Other => "other",
        }
    }
}

/// The folder of snapshots.
pub(crate) const SNAPSHOTS: &str = "log/snapshot";

/// Entry `seq` of the log.
pub(crate) fn commit(seq: u64) -> String {
    format!("log/{seq:020}.json")
}

/// The `seq` of a log entry's key.
pub(crate) fn parse_commit(key: &str) -> Option<u64> {
    number(key.strip_prefix("log/")?.strip_suffix(".json")?)
}

/// The live state after commit `seq`.
pub(crate) fn snapshot(seq: u64) -> String {
    format!("{SNAPSHOTS}/{seq:020}.json")
}

/// The `seq` of a snapshot's key.
pub(crate) fn parse_snapshot(key: &str) -> Option<u64> {
    number(key.strip_prefix(SNAPSHOTS)?.strip_prefix('/')?.strip_suffix(".json")?)
}

/// The commits `from..=to`.
pub(crate) fn history(from: u64, to: u64) -> Key {
    Key(format!("log/history/{from:020}-{to:020}-{}.parquet", unique_id()))
}

/// The first and last commit of a history segment's key.
pub(crate) fn parse_history(key: &str) -> Option<(u64, u64)> {
    let mut parts = key.strip_prefix("log/history/")?.strip_suffix(".parquet")?.splitn(3, '-');
    let (from, to) = (number(parts.next()?)?, number(parts.next()?)?);
    (from <= to && parts.next().is_some_and(|nonce| !nonce.is_empty())).then_some((from, to))
}

/// An object whose only use is the time that the backend gives it.
pub(crate) fn marker() -> String {
    format!("log/marker/{}", unique_id())
}

/// Whether this file makes such keys. Whatever else lies in a store's folder or prefix is not the store's to touch.
pub(crate) fn is_ours(key: &str) -> bool {
    let parts: Vec<&str> = key.split('/').collect();
    match parts.as_slice() {
        ["log", _] => parse_commit(key).is_some(),
        ["log", "snapshot", _] => parse_snapshot(key).is_some(),
        ["log", "history", segment] => parse_history(key).is_some() && ends_in_id(segment, ".parquet"),
        ["log", "marker", id] => is_id(id),
        ["rollouts", version, batch] => is_version(version) && ends_in_id(batch, ".arrow"),
        ["scores", _, batch] => ends_in_id(batch, ".arrow"),
        ["steps", step] => ends_in_id(step, ".arrow"),
        ["policies", folder, "model.safetensors"] => ends_in_id(folder, ""),
        ["policies", _] => is_by_content(key),
        ["optimizer", moments] => ends_in_id(moments, ".safetensors"),
        ["archive", "rollouts" | "steps", archive] | ["archive", "scores", _, archive] => {
            ends_in_id(archive, ".parquet")
        }
        _ => false,
    }
}

/// Whether `key` is that of a file stored under its content's digest: whoever stores it again finds it there.
pub(crate) fn is_by_content(key: &str) -> bool {
    let stem = key.strip_prefix("policies/").and_then(|file| file.rsplit_once('.')).map(|(stem, _)| stem);
    let digest = stem.and_then(|stem| stem.rsplit_once('-')).map(|(_, digest)| digest);
    digest.is_some_and(|digest| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The same key with another unique id; none where it has no such id.
pub(crate) fn renewed(key: &str) -> Option<Key> {
    let begins = |at: &usize| {
        let rest = &key[*at..];
        rest.strip_prefix('-').and_then(|rest| rest.get(..ID)).is_some_and(is_id)
            && rest[1 + ID..].chars().next().is_none_or(|next| matches!(next, '.' | '/'))
    };
    let at = key.match_indices('-').map(|(at, _)| at).rfind(begins)?;
    Some(Key(format!("{}-{}{}", &key[..at], unique_id(), &key[at + 1 + ID..])))
}

/// Characters of a unique id.
const ID: usize = 20;

fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

fn ends_in_id(name: &str, extension: &str) -> bool {
    let id = name.strip_suffix(extension).and_then(|stem| stem.rsplit_once('-'));
    id.is_some_and(|(stem, id)| !stem.is_empty() && is_id(id))
}

fn is_version(folder: &str) -> bool {
    let digits = folder.strip_prefix('v');
    digits.is_some_and(|digits| digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn number(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn folder(version: PolicyVersion) -> String {
    format!("v{:08}", version.0)
}

/// `name` with whatever could trouble a file system or a URL replaced. Two names may become one: the nonce tells apart.
fn plain(name: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let text: String = name.chars().take(100).map(|c| if safe(c) { c } else { '_' }).collect();
    if text.starts_with('.') || text.is_empty() { format!("_{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_in_keys_read_back_and_sort(a: u64, b: u64) {
            let (from, to) = (a.min(b), a.max(b));
            prop_assert_eq!(parse_snapshot(&snapshot(a)), Some(a));
            prop_assert_eq!(parse_history(history(from, to).as_str()), Some((from, to)));
            prop_assert_eq!(commit(a).cmp(&commit(b)), a.cmp(&b));
        }

        #[test]
        fn any_name_makes_a_key_that_a_backend_takes(set in ".*", batch in ".*", version: u64) {
            let version = PolicyVersion(version);
            let archived = Key::archived_scores(&set, version, version);
            for key in [Key::scores(&set, &batch), Key::rollouts(version, &batch), archived] {
                let path = object_store::path::Path::parse(key.as_str()).unwrap();
                prop_assert_eq!(path.as_ref(), key.as_str());
                prop_assert!(key.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
            }
        }

        #[test]
        fn no_text_breaks_the_readers(text in ".*") {
            prop_assert_eq!(parse_snapshot(&text), None);
            prop_assert_eq!(parse_history(&text), None);
        }
    }

    #[test]
    fn each_key_has_its_kind_and_no_two_are_the_same() {
        let version = PolicyVersion(7);
        let make = || {
            [
                (Key::rollouts(version, "u1-x"), Kind::Rollouts),
                (Key::scores("main", "u1-x"), Kind::Scores),
                (Key::step(3), Kind::Steps),
                (Key::weights(version), Kind::Policies),
                (Key::moments(version), Kind::Optimizer),
                (Key::archived_rollouts(version, version), Kind::Archive),
                (Key::archived_scores("main", version, version), Kind::Archive),
                (Key::archived_steps(1, 3), Kind::Archive),
            ]
        };
        for ((key, kind), (again, _)) in make().into_iter().zip(make()) {
            assert_eq!(Kind::of(key.as_str()), kind);
            assert_eq!(key.as_str().split('/').next(), Some(kind.as_str()));
            assert_ne!(key, again);
            assert!(is_ours(key.as_str()) && renewed(key.as_str()).is_some_and(|newer| is_ours(newer.as_str())));
        }
        assert!(Key::rollouts(version, "u1-x").as_str().starts_with("rollouts/v00000007/u1-x-"));
        assert_eq!(Kind::of(&commit(3)), Kind::Log);
        assert_eq!(Kind::of("lost+found"), Kind::Other);
    }
}
