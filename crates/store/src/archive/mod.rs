//! Archives: Parquet files into which batches and step records are moved once no job plans with them any more.
//!
//! A commit names an object by the key that it was put under, for ever. Where its rows lie is looked up when they are read: in the object,
//! or, if an archive commit says so, in a row group of an archive. Nothing above this folder knows the difference.

mod encodings;
mod file;
mod footers;
mod make;
mod places;
#[cfg(test)]
mod tests;

pub(crate) use footers::Footers;
pub use make::Archived;
pub(crate) use places::{Place, Places};

use crate::{Result, Store, StoreError, ipc::Fault};
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use file::Layout;
use record::{Archive, Budget, ObjectRef};
use std::sync::Arc;

impl Store {
    /// The rows of `object` from the place that they were moved to, as they were in it; what `budget` asks nothing of is empty.
    pub(crate) async fn get_moved(
        &self,
        object: &ObjectRef,
        place: Place,
        schema: &SchemaRef,
        budget: Budget,
    ) -> Result<RecordBatch> {
        let layout = self.layout(&place.archive).await?;
        let (archive, part, row_group) = (&place.archive.object, place.part(), place.row_group);
        let whole = ObjectRef { key: archive.key.clone(), bytes: part.bytes, digest: part.digest };
        let bytes = self.get_range(&whole, place.offset).await.map_err(|error| match error {
            StoreError::Corrupt { expected, found, .. } => {
                let expected = format!("its rows in row group {row_group} of `{}` with {expected}", archive.key);
                StoreError::Corrupt { key: object.key.clone(), expected, found }
            }
            other => other,
        })?;
        let (key, schema, offset) = (object.key.clone(), schema.clone(), place.offset);
        let expected = format!("its rows in row group {row_group} of `{}`", archive.key);
        self.blocking(&object.key, move || {
            layout.read(row_group, (offset, bytes), &schema, &budget).map_err(|fault| match fault {
                Fault::Malformed(found) => StoreError::Corrupt { key, expected, found },
                Fault::Newer(found, newest) => StoreError::NewerFormat { key, found, newest },
            })
        })
        .await
    }

    /// How the row groups of an archive are read.
    async fn layout(&self, archive: &Archive) -> Result<Arc<Layout>> {
        self.footers().get(&archive.object.key, || self.read_layout(archive)).await
    }

    /// Checks that the footer of an archive can be read, as every reader of its row groups has to.
    pub(crate) async fn check_layout(&self, archive: &Archive) -> Result<()> {
        self.read_layout(archive).await.map(drop)
    }

    async fn read_layout(&self, archive: &Archive) -> Result<Layout> {
        let key = &archive.object.key;
        let footer = ObjectRef { key: key.clone(), bytes: archive.footer.bytes, digest: archive.footer.digest };
        let bytes = self.get_range(&footer, archive.footer_at()).await.map_err(|error| match error {
            StoreError::Corrupt { key, expected, found } => {
                StoreError::Corrupt { key, expected: format!("a footer with {expected}"), found }
            }
            other => other,
        })?;
        let (name, moved) = (key.clone(), archive.moves.len());
        let parse = move || {
            let corrupt = |expected: String, found: String| StoreError::Corrupt { key: name.clone(), expected, found };
            let layout = Layout::parse(&bytes)
                .map_err(|error| corrupt("the footer of a Parquet file".into(), error.to_string()))?;
            match layout.row_groups() {
                there if there == moved => Ok(layout),
                there => Err(corrupt(format!("{moved} row groups"), there.to_string())),
            }
        };
        self.blocking(key, parse).await
    }
}
