//! What a replay is asked to take, on the command line or in a sweep.

use clap::{Args, ValueEnum};
use record::ReplayOrder;
use serde::Deserialize;

/// Which rows of which store, in which order.
#[derive(Clone, Debug, PartialEq, Eq, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The store whose rows are replayed: a directory, file:///..., or s3://bucket/prefix.
    #[arg(long, value_name = "STORE")]
    pub from: String,
    /// See it as it was after this commit.
    #[arg(long, value_name = "SEQ")]
    pub at: Option<u64>,
    /// Only rows of its table `scored` for which this holds: "source = 'gsm8k' and policy_version > 20".
    #[arg(long = "where", value_name = "SQL")]
    #[serde(rename = "where")]
    pub condition: Option<String>,
    /// In which order.
    #[arg(long, value_enum, default_value_t = Order::Recorded)]
    #[serde(default)]
    pub order: Order,
    /// With the scores of this set; without, of score.set.
    #[arg(long, value_name = "NAME")]
    pub score_set: Option<String>,
}

/// In which order rows are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As the steps of the store took them.
    #[default]
    Recorded,
    /// A permutation of every scored row, by the pipeline's seed.
    Seeded,
}

impl From<Order> for ReplayOrder {
    fn from(order: Order) -> Self {
        match order {
            Order::Recorded => ReplayOrder::Recorded,
            Order::Seeded => ReplayOrder::Seeded,
        }
    }
}

impl Source {
    /// As arguments of `opd replay`.
    pub fn args(&self) -> Vec<String> {
        let given = |flag: &str, value: Option<String>| value.map(|value| format!("{flag}={value}"));
        [
            Some(format!("--from={}", self.from)),
            given("--at", self.at.map(|at| at.to_string())),
            given("--where", self.condition.clone()),
            Some(format!("--order={}", ReplayOrder::from(self.order).as_str())),
            given("--score-set", self.score_set.clone()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
