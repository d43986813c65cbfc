//! The log of a Delta table, as far as an export reads and writes it: actions as lines of JSON, and what they add up to.
//!
//! A table here has protocol (1, 2), which every reader of Delta knows: no deletion vectors, no column mapping, no
//! checkpoints of ours. Source of the format: the Delta transaction log protocol.

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use record::schema::COMMENT;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The newest protocol that is written, and the newest that is understood: (reader, writer).
const PROTOCOL: (u32, u32) = (1, 2);

/// Where version `version` of a table's log lies, within the table's folder.
pub fn entry(version: u64) -> String {
    format!("_delta_log/{version:020}.json")
}

/// One line of a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Who wrote it and when; for people.
    CommitInfo(Value),
    /// What a program must know to read and to write the table.
    Protocol(Protocol),
    /// Columns, partitions, names.
    MetaData(Metadata),
    /// How far an application has come.
    Txn(Txn),
    /// A file is part of the table from here on.
    Add(Add),
    /// A file is no part of it any more.
    Remove(Remove),
}

/// See [`Action::Protocol`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    min_reader_version: u32,
    min_writer_version: u32,
}

/// See [`Action::MetaData`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    id: String,
    name: Option<String>,
    description: Option<String>,
    format: Value,
    schema_string: String,
    partition_columns: Vec<String>,
    configuration: Value,
    created_time: Option<i64>,
}

/// See [`Action::Txn`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Txn {
    /// The run.
    pub app_id: String,
    /// The commit of the run's log up to which its rows are in the table.
    pub version: u64,
    /// Milliseconds since 1970.
    pub last_updated: Option<i64>,
}

/// See [`Action::Add`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// Within the table's folder.
    pub path: String,
    /// The values of the partition columns, as text.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modification_time: i64,
    /// Whether rows come with it.
    pub data_change: bool,
    /// JSON: rows, least, greatest and missing values by column.
    pub stats: Option<String>,
}

/// See [`Action::Remove`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remove {
    path: String,
    deletion_timestamp: Option<i64>,
    data_change: bool,
}

/// What the versions of a table's log add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The number that the next version gets.
    pub next: u64,
    metadata: Option<Metadata>,
    txns: BTreeMap<String, u64>,
    live: BTreeMap<String, Add>,
}

impl Table {
    /// Takes in the next version of the log.
    ///
    /// # Errors
    /// In words, what is not understood: a line that is no action, a newer protocol, another engine's feature.
    pub fn fold(&mut self, text: &str) -> Result<(), String> {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let action: Action = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1))?;
            match action {
                Action::CommitInfo(_) => {}
                Action::Protocol(Protocol { min_reader_version: reader, min_writer_version: writer }) => {
                    if reader > PROTOCOL.0 || writer > PROTOCOL.1 {
                        return Err(format!("protocol ({reader}, {writer}); understood is up to {PROTOCOL:?}"));
                    }
                }
                Action::MetaData(metadata) => self.metadata = Some(metadata),
                Action::Txn(txn) => {
                    self.txns.insert(txn.app_id, txn.version);
                }
                Action::Add(add) => {
                    self.live.insert(add.path.clone(), add);
                }
                Action::Remove(remove) => {
                    self.live.remove(&remove.path);
                }
            }
        }
        self.next += 1;
        Ok(())
    }

    /// The commit of run `run_id` up to which its rows are here.
    pub fn seq(&self, run_id: &str) -> Option<u64> {
        self.txns.get(run_id).copied()
    }

    /// The files that are part of the table now.
    pub fn files(&self) -> impl Iterator<Item = &Add> {
        self.live.values()
    }

    /// The first column in which `schema` is not the table's: (column, the table's type, the type in `schema`).
    pub fn difference(&self, schema: &Schema) -> Option<(String, String, String)> {
        let text = self.metadata.as_ref().map(|metadata| metadata.schema_string.as_str())?;
        let there = columns(&serde_json::from_str(text).unwrap_or_default());
        let ours = columns(&schema_json(schema));
        let name = there.keys().chain(ours.keys()).find(|name| there.get(*name) != ours.get(*name))?;
        let of = |columns: &BTreeMap<String, String>| columns.get(name).cloned().unwrap_or_else(|| "no such".into());
        Some((name.clone(), of(&there), of(&ours)))
    }
}

/// The types of a schema's columns by name, in Delta's words.
fn columns(schema: &Value) -> BTreeMap<String, String> {
    let fields = schema["fields"].as_array().into_iter().flatten();
    fields.map(|field| (field["name"].as_str().unwrap_or_default().to_string(), field["type"].to_string())).collect()
}

/// The first two lines of a new table: what it takes to read it, and what it holds.
pub fn creation(id: &str, name: &str, schema: &Schema, partition: Option<&str>, now: i64) -> [Action; 2] {
    let protocol = Protocol { min_reader_version: PROTOCOL.0, min_writer_version: PROTOCOL.1 };
    let metadata = Metadata {
        id: id.into(),
        name: Some(name.into()),
        description: schema.metadata().get(COMMENT).cloned(),
        format: json!({"provider": "parquet", "options": {}}),
        schema_string: schema_json(schema).to_string(),
        partition_columns: partition.into_iter().map(str::to_string).collect(),
        configuration: json!({}),
        created_time: Some(now),
    };
    [Action::Protocol(protocol), Action::MetaData(metadata)]
}

/// A file's end.
pub fn removal(add: &Add, now: i64) -> Action {
    Action::Remove(Remove { path: add.path.clone(), deletion_timestamp: Some(now), data_change: true })
}

/// Who writes a version, and which commit of the run it brings the table to.
pub fn commit_info(replaces: bool, seq: u64, now: i64) -> Action {
    Action::CommitInfo(json!({
        "timestamp": now,
        "operation": "WRITE",
        "operationParameters": {"mode": if replaces { "Overwrite" } else { "Append" }},
        "engineInfo": concat!("opd/", env!("CARGO_PKG_VERSION")),
        "opdSeq": seq,
    }))
}

/// A version as it is stored.
///
/// # Errors
/// Never for actions made here: all of them are plain data.
pub fn to_text(actions: &[Action]) -> serde_json::Result<String> {
    let lines = actions.iter().map(|action| serde_json::to_string(action).map(|line| line + "\n"));
    lines.collect()
}

/// The type of `field` in files of a table: as it is in the store, but for times, which Delta keeps in microseconds.
pub fn stored_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(_, _) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        other => other.clone(),
    }
}

/// The schema as Delta writes it. Its columns are those of the store's tables, whose types are all known here.
fn schema_json(schema: &Schema) -> Value {
    let field = |field: &std::sync::Arc<Field>| {
        let comment = field.metadata().get(COMMENT).map(|text| json!({"comment": text}));
        json!({
            "name": field.name(),
            "type": type_json(field.data_type()).unwrap_or_else(|| "binary".into()),
            "nullable": field.is_nullable(),
            "metadata": comment.unwrap_or_else(|| json!({})),
        })
    };
    json!({"type": "struct", "fields": schema.fields().iter().map(field).collect::<Vec<_>>()})
}

/// Delta's word for a type; `None` where it has none or no table of a store needs it.
pub fn type_json(data_type: &DataType) -> Option<Value> {
    Some(match data_type {
        DataType::Boolean => "boolean".into(),
        DataType::Int32 => "integer".into(),
        DataType::Int64 => "long".into(),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Utf8 => "string".into(),
        DataType::Timestamp(_, Some(_)) => "timestamp".into(),
        DataType::List(item) => json!({
            "type": "array",
            "elementType": type_json(item.data_type())?,
            "containsNull": item.is_nullable(),
        }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::DataType::{Float32, Int32, Int64};
    use proptest::prelude::*;
    use std::{collections::HashMap, sync::Arc};

    fn schema() -> Schema {
        let list = |item| DataType::List(Arc::new(Field::new("item", item, false)));
        Schema::new(vec![
            Field::new("id", Int64, false),
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
            Field::new("top", list(list(Float32)), false)
                .with_metadata(HashMap::from([(COMMENT.to_string(), "The \"top\".".to_string())])),
        ])
    }

    fn add(path: &str) -> Add {
        let (partition_values, stats) = (BTreeMap::new(), Some("{}".into()));
        Add { path: path.into(), partition_values, size: 3, modification_time: 1, data_change: true, stats }
    }

    fn txn(version: u64) -> Action {
        Action::Txn(Txn { app_id: "run".into(), version, last_updated: None })
    }

    #[test]
    fn a_version_is_the_lines_that_the_protocol_says() {
        let [protocol, metadata] = creation("i", "rows", &schema(), Some("policy_version"), 7);
        let text = to_text(&[protocol, metadata, txn(4), Action::Add(add("a")), removal(&add("b"), 9)]).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}));
        assert_eq!(lines[1]["metaData"]["partitionColumns"], json!(["policy_version"]));
        let schema: Value = serde_json::from_str(lines[1]["metaData"]["schemaString"].as_str().unwrap()).unwrap();
        let array = |of: Value| json!({"type": "array", "elementType": of, "containsNull": false});
        let fields = json!([
            {"name": "id", "type": "long", "nullable": false, "metadata": {}},
            {"name": "at", "type": "timestamp", "nullable": true, "metadata": {}},
            {"name": "top", "type": array(array("float".into())), "nullable": false, "metadata": {"comment": "The \"top\"."}},
        ]);
        assert_eq!(schema, json!({"type": "struct", "fields": fields}));
        assert_eq!(lines[2], json!({"txn": {"appId": "run", "version": 4, "lastUpdated": null}}));
        assert_eq!(lines[3]["add"]["path"], "a");
        assert_eq!(lines[4], json!({"remove": {"path": "b", "deletionTimestamp": 9, "dataChange": true}}));
    }

    #[test]
    fn what_is_not_understood_is_refused_in_words() {
        let says = |text: &str| Table::default().fold(text).unwrap_err();
        assert!(says(r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7}}"#).contains("protocol (3, 7)"));
        assert!(says(r#"{"domainMetadata":{}}"#).contains("domainMetadata"));
        assert!(says("{\"txn\":").contains("line 1"));
    }

    #[test]
    fn another_schema_is_named_by_its_column_and_another_comment_is_none() {
        let mut table = Table::default();
        let [_, metadata] = creation("i", "rows", &schema(), None, 7);
        table.fold(&to_text(&[metadata]).unwrap()).unwrap();
        assert_eq!(table.difference(&schema()), None);
        let plain: Vec<Field> =
            schema().fields().iter().map(|f| f.as_ref().clone().with_metadata(HashMap::new())).collect();
        assert_eq!(table.difference(&Schema::new(plain.clone())), None);
        let changed: Vec<Field> = plain.iter().map(|f| f.clone().with_data_type(Int32)).collect();
        let (column, there, ours) = table.difference(&Schema::new(changed)).unwrap();
        assert_eq!((column.as_str(), there.as_str(), ours.as_str()), ("at", "\"timestamp\"", "\"integer\""));
        assert_eq!(table.difference(&Schema::new(plain[..2].to_vec())).unwrap().0, "top");
    }

    proptest! {
        #[test]
        fn files_are_those_added_last_and_not_removed(steps in prop::collection::vec((0u8..6, any::<bool>()), 0..40)) {
            let (mut table, mut expected) = (Table::default(), std::collections::BTreeSet::new());
            for (version, (file, adds)) in steps.iter().enumerate() {
                let add = add(&file.to_string());
                let action = if *adds { Action::Add(add.clone()) } else { removal(&add, 1) };
                if *adds { expected.insert(add.path) } else { expected.remove(&add.path) };
                table.fold(&to_text(&[txn(version as u64), action]).unwrap()).unwrap();
            }
            prop_assert_eq!(table.next, steps.len() as u64);
            prop_assert_eq!(table.seq("run"), (steps.len() as u64).checked_sub(1));
            prop_assert_eq!(table.seq("another"), None);
            prop_assert!(table.files().map(|add| &add.path).eq(&expected));
        }
    }
}
