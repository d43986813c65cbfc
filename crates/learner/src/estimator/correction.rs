//! What makes up for draws being the sampler's and not the learner's: the weights w of `c_j = -(n_j / m) w_j A_j`.

use super::{Advantage, Candidates, DecoupledPpo, M2po, Pass, ppo::Clip, reverse_kl_mc::Draws};
use crate::{LearnError, Result};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        Error, MapAccess, Visitor,
        value::{MapAccessDeserializer, MapDeserializer},
    },
};
use tch::Tensor;

/// What makes up for the draws being the sampler's and not the learner's. In a pipeline it is a name,
/// `correction = "importance"`, or a table with its settings, `correction = { name = "truncated", c = 2.0 }`.
//
// The braces are there because serde lets any setting pass beside the name of a unit variant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Correction {
    /// Nothing does: w = 1.
    None {},
    /// The importance ratio rho = p / b, unclipped (its log held to +-20).
    Importance {},
    /// rho, at most `c`.
    Truncated {
        /// The most, 1 or more.
        #[serde(default = "two")]
        c: f64,
    },
    /// rho by its mean over the position's draws.
    SelfNormalised {},
    /// rho, or 0 by the PPO rule.
    Ppo(Clip),
    /// The PPO rule on the ratio to the proximal weights, times theirs to the sampler.
    DecoupledPpo(DecoupledPpo),
    /// rho, or 0 by the PPO rule with margins that the whole minibatch gives.
    M2po(M2po),
}

fn two() -> f64 {
    2.0
}

/// The keys of a clip's margins where it is a correction's.
pub(super) const MARGINS: [&str; 3] =
    ["estimator.correction.eps_low", "estimator.correction.eps_high", "estimator.correction.dual_clip"];

impl Default for Correction {
    fn default() -> Self {
        Self::Importance {}
    }
}

impl Correction {
    /// Refuses settings without a meaning, for an estimator with `draws` a position.
    pub(super) fn validate(self, draws: usize) -> Result<()> {
        match self {
            Self::None {} | Self::Importance {} => Ok(()),
            Self::Truncated { c } if c >= 1.0 && c.is_finite() => Ok(()),
            Self::Truncated { c } => {
                let expected = "1 or more: below that even an unchanged student is truncated".into();
                Err(LearnError::Setting { key: "estimator.correction.c", expected, found: c.to_string() })
            }
            Self::SelfNormalised {} if draws == 1 => {
                let expected = "another one: with estimator.draws = 1 it is `none`: use that".into();
                Err(LearnError::Setting { key: "estimator.correction", expected, found: "self_normalised".into() })
            }
            Self::SelfNormalised {} => Ok(()),
            Self::Ppo(clip) => clip.validate(MARGINS),
            Self::DecoupledPpo(rule) => rule.validate(),
            Self::M2po(rule) => rule.validate(),
        }
    }

    /// What it needs to know of the whole minibatch.
    pub(super) fn pass(self) -> Pass {
        match self {
            Self::DecoupledPpo(rule) => Pass::Proximal { minibatches: rule.minibatches },
            Self::M2po(_) => Pass::Statistics,
            Self::None {} | Self::Importance {} | Self::Truncated { .. } | Self::SelfNormalised {} | Self::Ppo(_) => {
                Pass::None
            }
        }
    }

    /// What it is in this minibatch, where that is not itself.
    pub(super) fn settle(self, advantage: Advantage, minibatch: &[Candidates]) -> Option<Self> {
        match self {
            Self::M2po(rule) => Some(Self::Ppo(rule.clip(&M2po::harmful(advantage, minibatch)))),
            _ => None,
        }
    }

    /// The weights at draws `[N, J]` with these rho, and which of them were cut down. Where a share is 0 the weight means nothing.
    pub(super) fn weights(
        self,
        candidates: &Candidates,
        draws: &Draws,
        rho: &Tensor,
        advantage: &Tensor,
    ) -> (Tensor, Option<Tensor>) {
        match self {
            Self::None {} => (rho.ones_like(), None),
            Self::Importance {} => (rho.shallow_clone(), None),
            Self::Truncated { c } => (rho.clamp_max(c), Some(rho.gt(c))),
            Self::SelfNormalised {} => {
                let mean = (&draws.share * rho).sum_dim_intlist([1i64].as_slice(), true, None);
                (rho / mean, None)
            }
            Self::Ppo(clip) => {
                let (weights, clipped) = clip.weights(rho, advantage);
                (weights, Some(clipped))
            }
            Self::DecoupledPpo(rule) => {
                let (weights, cut) = rule.weights(candidates, draws, advantage);
                (weights, Some(cut))
            }
            // Its margins are not known yet: not a number, so that a pass that was left out is found out.
            Self::M2po(_) => (rho.full_like(f64::NAN), None),
        }
    }
}

impl Serialize for Correction {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::None {} => serializer.serialize_str("none"),
            Self::Importance {} => serializer.serialize_str("importance"),
            Self::SelfNormalised {} => serializer.serialize_str("self_normalised"),
            Self::Truncated { .. } | Self::Ppo(_) | Self::DecoupledPpo(_) | Self::M2po(_) => {
                Self::serialize(self, serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Correction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct NameOrTable;
        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Correction;

            fn expecting(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
                to.write_str("a correction's name, or a table with its `name` and settings")
            }

            fn visit_str<E: Error>(self, name: &str) -> std::result::Result<Correction, E> {
                Correction::deserialize(MapDeserializer::new(std::iter::once(("name", name))))
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> std::result::Result<Correction, A::Error> {
                Correction::deserialize(MapAccessDeserializer::new(table))
            }
        }
        deserializer.deserialize_any(NameOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> std::result::Result<Correction, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_or_a_table() {
        let ppo = |eps_low, dual_clip| Correction::Ppo(Clip { eps_low, eps_high: 0.2, dual_clip });
        let decoupled = |minibatches, cap| {
            Correction::DecoupledPpo(DecoupledPpo { minibatches, cap, eps_low: 0.2, eps_high: 0.2, dual_clip: None })
        };
        for (json, expected) in [
            (r#""none""#, Correction::None {}),
            (r#""importance""#, Correction::Importance {}),
            (r#"{"name": "importance"}"#, Correction::Importance {}),
            (r#""truncated""#, Correction::Truncated { c: 2.0 }),
            (r#"{"name": "truncated", "c": 3.5}"#, Correction::Truncated { c: 3.5 }),
            (r#"{"c": 3.5, "name": "truncated"}"#, Correction::Truncated { c: 3.5 }),
            (r#""self_normalised""#, Correction::SelfNormalised {}),
            (r#""ppo""#, ppo(0.2, None)),
            (r#"{"name": "ppo", "eps_low": 0.1, "dual_clip": 3.0}"#, ppo(0.1, Some(3.0))),
            (r#""m2po""#, Correction::M2po(M2po { budget: 0.04 })),
            (r#"{"name": "m2po", "budget": 0.1}"#, Correction::M2po(M2po { budget: 0.1 })),
            (r#"{"name": "decoupled_ppo", "minibatches": 4}"#, decoupled(4, 5.0)),
            (r#"{"name": "decoupled_ppo", "minibatches": 2, "cap": 3}"#, decoupled(2, 3.0)),
        ] {
            let found = read(json).unwrap();
            assert_eq!(found, expected);
            assert_eq!(read(&serde_json::to_string(&found).unwrap()).unwrap(), expected, "as it went");
        }
        assert_eq!(serde_json::to_string(&Correction::default()).unwrap(), r#""importance""#);
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_name() {
        for (json, says) in [
            (r#""truncate""#, ["unknown variant `truncate`", "`truncated`"]),
            (r#"{"name": "truncated", "cc": 2}"#, ["unknown field `cc`", "`c`"]),
            (r#"{"name": "none", "c": 2}"#, ["unknown field `c`", "no fields"]),
            (r#"{"name": "ppo", "eps": 0.2}"#, ["unknown field `eps`", "`eps_low`"]),
            (r#"{"c": 2}"#, ["missing field", "`name`"]),
            (r#""decoupled_ppo""#, ["missing field", "`minibatches`"]),
            (r#"{"name": "decoupled_ppo", "minibatch": 2}"#, ["unknown field `minibatch`", "`minibatches`"]),
            (r#"{"name": "m2po", "budgt": 2}"#, ["unknown field `budgt`", "`budget`"]),
            ("2", ["a correction's name", "2"]),
        ] {
            let said = read(json).unwrap_err();
            assert!(says.iter().all(|words| said.contains(words)), "{json}: {said}");
        }
        for (json, draws, says) in [
            (r#"{"name": "truncated", "c": 0.5}"#, 1, ["`estimator.correction.c` is 0.5", "1 or more"]),
            (r#""self_normalised""#, 1, ["`estimator.correction` is self_normalised", "it is `none`: use that"]),
            (r#"{"name": "ppo", "eps_low": 1.5}"#, 1, ["`estimator.correction.eps_low` is 1.5", "at most 1"]),
            (r#"{"name": "ppo", "eps_high": 0}"#, 1, ["`estimator.correction.eps_high` is 0", "above 0"]),
            (r#"{"name": "m2po", "budget": 0}"#, 1, ["`estimator.correction.budget` is 0", "above 0"]),
            (
                r#"{"name": "decoupled_ppo", "minibatches": 0}"#,
                1,
                ["`estimator.correction.minibatches` is 0", "1 or more"],
            ),
            (
                r#"{"name": "decoupled_ppo", "minibatches": 1, "cap": 0.5}"#,
                1,
                ["`estimator.correction.cap` is 0.5", "1 or"],
            ),
            (
                r#"{"name": "decoupled_ppo", "minibatches": 1, "eps_low": 0}"#,
                1,
                ["correction.eps_low` is 0", "above 0"],
            ),
            (r#"{"name": "ppo", "dual_clip": 1}"#, 1, ["`estimator.correction.dual_clip` is 1", "above 1"]),
        ] {
            let said = read(json).unwrap().validate(draws).unwrap_err().to_string();
            assert!(says.iter().all(|words| said.contains(words)), "{json}: {said}");
        }
        assert!(Correction::SelfNormalised {}.validate(2).is_ok());
    }
}
