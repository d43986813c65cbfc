"""Writes the rows of a store as other programs keep such rows, and measures how quickly each gives them back.

    peers.py STORE FOLDER

Prints a line for each way: name, rows and entries a second of CPU time, bytes on disk, ms to the first batch, ms to the first batch from the middle, and
the sums that all readers must agree on. benches/stream/main.rs calls it, on one core.
"""

import glob
import os
import statistics
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import datasets
import litdata
import numpy as np
import pyarrow as pa
import streaming
import torch

torch.set_num_threads(1)
store, folder = sys.argv[1:]
BATCH = 64
SECONDS = 3
NAMES = ["tokens", "sampler", "ids", "logprobs", "lengths", "tails"]


def stored():
    """The store's batches, one after another, as columns of lists."""
    of = {"tokens": "response_ids", "sampler": "sampler_logprobs"}
    scores = {"ids": "teacher_top_ids", "logprobs": "teacher_top_logprobs", "tails": "teacher_tail_logprobs"}
    for rollouts in sorted(glob.glob(f"{store}/rollouts/*/*.arrow")):
        unit = os.path.basename(rollouts).split("-")[0]
        [other] = glob.glob(f"{store}/scores/main/{unit}-*.arrow")
        left, right = (pa.ipc.open_file(pa.memory_map(file)).read_all() for file in (rollouts, other))
        yield {name: left[column].combine_chunks() for name, column in of.items()} | {
            name: right[column].combine_chunks() for name, column in scores.items()
        }


def flat(column):
    """All values of a column of lists, or of lists of lists, without a copy."""
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    return column.to_numpy()


def arrays(columns):
    """A batch as arrays end to end: those of `NAMES`, and the rows' numbers of positions."""
    one = {name: flat(column) for name, column in columns.items()}
    one["lengths"] = columns["ids"].flatten().value_lengths().to_numpy()
    one["positions"] = columns["tokens"].value_lengths().to_numpy()
    return one


def rows():
    """The rows as a dict of arrays each, as programs that keep samples want them."""
    for columns in stored():
        one = arrays(columns)
        bounds = np.concatenate([[0], np.cumsum(one["positions"])])
        entries = np.concatenate([[0], np.cumsum(one["lengths"])])
        for begin, end in zip(bounds, bounds[1:]):
            of = {name: slice(begin, end) for name in NAMES} | dict.fromkeys(["ids", "logprobs"], slice(entries[begin], entries[end]))
            yield {name: np.ascontiguousarray(one[name][of[name]]) for name in NAMES}


class TorchSave:
    """A file of end-to-end tensors a batch."""

    name = "torch.save"
    mapped = False

    def __init__(self, path):
        self.path = path

    def write(self):
        os.makedirs(self.path)
        for number, columns in enumerate(stored()):
            torch.save({k: torch.tensor(v) for k, v in arrays(columns).items()}, f"{self.path}/{number:05}.pt")

    def batches(self, row):
        for file in sorted(os.listdir(self.path))[row // BATCH :]:
            one = torch.load(f"{self.path}/{file}", mmap=self.mapped, weights_only=True)
            yield [{name: one[name].numpy() for name in NAMES}]


class TorchMapped(TorchSave):
    name = "torch.save mmap=True"
    mapped = True

    def write(self):
        pass


class Datasets:
    """A table of lists in memory-mapped Arrow files."""

    name = "HF datasets format numpy"

    def __init__(self, path):
        self.path = path

    def write(self):
        tables = [pa.table(columns) for columns in stored()]
        datasets.Dataset(pa.concat_tables(tables)).save_to_disk(self.path)

    def open(self, row):
        data = datasets.load_from_disk(self.path)
        return data.select(range(row, len(data))) if row else data

    def batches(self, row):
        for batch in self.open(row).with_format("numpy").iter(batch_size=BATCH):
            yield [{name: leaves(batch[name]) for name in batch}]


def leaves(value):
    """What is nested in an array of objects, as a list of arrays."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [value]
    return [leaf for item in value for leaf in leaves(item)]


class DatasetsArrow(Datasets):
    name = "HF datasets format arrow"

    def write(self):
        pass

    def batches(self, row):
        for table in self.open(row).with_format("arrow").iter(batch_size=BATCH):
            yield [arrays({name: table[name].combine_chunks() for name in table.column_names})]


class Mosaic:
    """A sample a row, arrays end to end."""

    name = "Mosaic StreamingDataset"

    def __init__(self, path):
        self.path = path

    def write(self):
        columns = {name: f"ndarray:{'int32' if name in ('tokens', 'ids', 'lengths') else 'float32'}" for name in NAMES}
        with streaming.MDSWriter(out=self.path, columns=columns, size_limit="64mb") as writer:
            for row in rows():
                writer.write(row)

    def batches(self, row):
        streaming.base.util.clean_stale_shared_memory()
        data = streaming.StreamingDataset(local=self.path, shuffle=False, batch_size=BATCH)
        if row:
            data.load_state_dict(data.state_dict(row, False) or {})
        yield from grouped(data)


class Lit:
    """The same in LitData's chunks."""

    name = "LitData"

    def __init__(self, path):
        self.path = path

    def write(self):
        litdata.optimize(fn=same, inputs=list(rows()), output_dir=self.path, chunk_bytes="64MB", num_workers=1, verbose=False)

    def batches(self, row):
        data = litdata.StreamingDataset(self.path, shuffle=False)
        yield from grouped(data if not row else (data[i] for i in range(row, len(data))))


def same(row):
    return row


def grouped(samples):
    batch = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def each(batch, name):
    for sample in batch:
        found = sample[name]
        yield from found if isinstance(found, list) else [found]


def touch(batch):
    """Uses a number of each 4 KiB of every array."""
    names = [name for name in NAMES if name in batch[0]]
    return sum(int(array[::1024].view(np.int32).sum()) for name in names for array in each(batch, name))


def sums(peer):
    count, ids, bits = 0, 0, 0
    for batch in peer.batches(0):
        for array in each(batch, "ids"):
            ids, count = ids + int(array.sum(dtype=np.int64)), count + len(array)
        bits += sum(int(array.view(np.int32).sum(dtype=np.int64)) for array in each(batch, "logprobs"))
    return count, ids, bits


def first(peer, row):
    times = []
    for _ in range(5):
        start = time.perf_counter()
        touch(next(iter(peer.batches(row))))
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def main():
    count = sum(len(columns["tokens"]) for columns in stored())
    places = {TorchMapped: "TorchSave", DatasetsArrow: "Datasets"}
    for kind in [TorchSave, TorchMapped, Datasets, DatasetsArrow, Mosaic, Lit]:
        path = f"{folder}/{places.get(kind, kind.__name__)}"
        peer = kind(path)
        peer.write()
        entries, ids, bits = sums(peer)
        passes, begun, cpu = 0, time.perf_counter(), time.process_time()
        while passes < 1 or time.perf_counter() - begun < SECONDS:
            for batch in peer.batches(0):
                touch(batch)
            passes += 1
        seconds = (time.process_time() - cpu) / passes
        size = sum(os.path.getsize(file) for file in glob.glob(f"{path}/**", recursive=True) if os.path.isfile(file))
        line = [f"{count / seconds:.0f}", f"{entries / seconds:.0f}", str(size), f"{first(peer, 0):.1f}"]
        print(",".join([peer.name, *line, f"{first(peer, count // 2):.1f}", f"{count} {ids} {bits}"]), flush=True)


if __name__ == "__main__":
    main()
