//! Making an archive: nothing of it counts before it was read back and found to be what it was made from.

use super::file::{Layout, Writer};
use crate::{Key, Result, Store, StoreError};
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use bytes::Bytes;
use parquet::errors::ParquetError;
use record::{Archive, Budget, Move, ObjectRef};

/// What came of the objects that were to be archived.
#[derive(Debug)]
pub struct Archived {
    /// The archive, put and for a commit to name; none if no object had a row that could be read.
    pub archive: Option<Archive>,
    /// Objects with other columns than the first that was read, for archives of their own: fewer than there were.
    pub later: Vec<ObjectRef>,
    /// What is wrong with those that cannot be read. They stay where they are.
    pub left: Vec<StoreError>,
}

/// An archive in the making, with what is in it so far.
struct Making {
    writer: Writer,
    batches: Vec<RecordBatch>,
}

impl Store {
    /// Puts an archive of `objects`, which are of one kind (`schema` is theirs) and lie where they were put, each as a row group of its
    /// own. Objects without rows are left out, and those with other columns for later. `key` makes its key once it is known what is in it;
    /// `tell` hears how many are done.
    ///
    /// # Errors
    /// As [`Store::put`]; [`StoreError::Refused`] if the archive does not read back as what it was made from.
    pub async fn put_archive(
        &self,
        objects: &[ObjectRef],
        schema: &SchemaRef,
        key: impl FnOnce(&[Move]) -> Key,
        tell: impl Fn(usize),
    ) -> Result<Archived> {
        let (mut making, mut later, mut left): (Option<Making>, Vec<ObjectRef>, Vec<StoreError>) = Default::default();
        for (done, object) in objects.iter().enumerate() {
            tell(done);
            let batch = match self.get_own(object, schema).await {
                Ok(batch) => batch,
                Err(error) if error.is_of_one_object() => {
                    left.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if batch.num_rows() == 0 {
                continue;
            }
            if making.as_ref().is_some_and(|making| making.batches[0].schema() != batch.schema()) {
                later.push(object.clone());
                continue;
            }
            let (of, store) = (object.key.clone(), self.clone());
            let push = move || {
                let broken = |error: ParquetError| store.backend().refused("archive", &of, error.to_string());
                let mut making = match making {
                    Some(making) => making,
                    None => Making { writer: Writer::new(&batch.schema()).map_err(broken)?, batches: Vec::new() },
                };
                making.writer.push(&of, &batch).map_err(broken)?;
                making.batches.push(batch);
                Ok(making)
            };
            making = Some(self.blocking(&object.key, push).await?);
        }
        let archive = match making {
            Some(making) => Some(self.finish_archive(key(making.writer.moves()), making, schema).await?),
            None => None,
        };
        Ok(Archived { archive, later, left })
    }

    async fn finish_archive(&self, key: Key, making: Making, schema: &SchemaRef) -> Result<Archive> {
        let (name, store, schema) = (key.as_str().to_string(), self.clone(), schema.clone());
        let finish = move || {
            let broken = |reason: String| store.backend().refused("write", &name, reason);
            let (bytes, footer, moves) = making.writer.finish().map_err(|error| broken(error.to_string()))?;
            let object = ObjectRef { key: name.clone(), bytes: bytes.len() as u64, digest: footer.digest };
            let archive = Archive { object, footer, moves };
            check(&archive, &bytes, &making.batches, &schema).map_err(broken)?;
            Ok((archive, bytes))
        };
        let (archive, bytes) = self.blocking(key.as_str(), finish).await?;
        let object = self.put(key, bytes).await?;
        Ok(Archive { object, ..archive })
    }
}

/// That the archive in `bytes` reads back as `batches`, row group by row group.
fn check(archive: &Archive, bytes: &Bytes, batches: &[RecordBatch], schema: &SchemaRef) -> Result<(), String> {
    archive.check()?;
    let layout = Layout::parse(&bytes[archive.footer_at() as usize..]).map_err(|error| error.to_string())?;
    for ((row_group, (offset, of)), batch) in archive.row_groups().enumerate().zip(batches) {
        let part = bytes.slice(offset as usize..(offset + of.bytes) as usize);
        let read = layout
            .read(row_group, (offset, part), schema, &Budget::default())
            .map_err(|fault| format!("`{}` cannot be read back: {fault:?}", of.key))?;
        if read != *batch {
            return Err(format!("`{}` does not read back as it is", of.key));
        }
    }
    Ok(())
}
