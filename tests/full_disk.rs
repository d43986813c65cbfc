//! A full disk is said clearly, and the same command goes on once there is room.

use crate::support::{Small, opd, succeeded, text};
use std::{path::Path, process::Command};

const DIGESTS: &str = "select step, weights_digest from steps order by step";

/// Runs twice in a disk of its own, which nobody else sees: full, and then not. Leaves what each said in `$said`.
const SCRIPT: &str = r#"
disk=$1 said=$2 query=$3; shift 3
mount -t tmpfs -o size=64m tmpfs "$disk" || exit 77
# What a run begins with fits, what it makes does not.
head -c $(( (65536 - ROOM_KB) * 1024 )) /dev/zero > "$disk/filler"
"$@" > "$said/out-1" 2> "$said/err-1"; echo $? > "$said/status-1"
rm "$disk/filler"
"$@" > "$said/out-2" 2> "$said/err-2"; echo $? > "$said/status-2"
"$1" sql "$disk/store" "$query" --format csv > "$said/digests"
"#;

#[test]
fn a_full_disk_is_an_error_by_name_and_the_run_goes_on_once_there_is_room() {
    let whole = Small::new();
    succeeded(&whole.run(&[]));
    let disk = tempfile::tempdir().unwrap();
    let small = Small::stored_at(disk.path().join("store").display().to_string());
    // Bytes of a finished run: half of them is too little, and more than the student to begin with.
    let bytes: u64 = bytes_below(&whole.path("store"));
    let script = SCRIPT.replace("ROOM_KB", &(bytes / 2048).to_string());
    let run = small.command("run", &[]);
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "bash", "-c", &script, "full-disk"])
        .args([disk.path(), small.dir.path()])
        .arg(DIGESTS)
        .arg(opd().get_program())
        .args(run.get_args())
        .env("OMP_NUM_THREADS", "1")
        .output();
    let Some(output) = output.ok().filter(|output| small.path("status-1").exists() || output.status.success()) else {
        eprintln!("not run: no file system can be mounted here (`unshare --map-root-user --mount`)");
        return;
    };
    let read = |name: &str| std::fs::read_to_string(small.path(name)).unwrap();
    let said = read("err-1");
    assert_eq!(read("status-1").trim(), "2", "{said}{}", text(&output.stderr));
    let store = small.store();
    for words in ["cannot write `", &format!("in `{store}`"), "No space left on device", "started again"] {
        assert!(said.contains(words), "should say {words:?}:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(read("status-2").trim(), "0", "{}", read("err-2"));
    let digests: Vec<String> = read("digests").lines().skip(1).map(str::to_string).collect();
    assert_eq!(digests, whole.sql(DIGESTS));
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let bytes = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => bytes_below(&entry.path()),
        meta => meta.len(),
    };
    entries.map(bytes).sum()
}
