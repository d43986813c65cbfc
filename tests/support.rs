//! A small run in a temporary folder: random models of a few thousand parameters, the arith tokenizer, easy prompts.

use model::{Device, ModelConfig, Precision, Tokenizer, Transformer};
use rustix::process::Pid;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Rows of a step and of a whole run in the small pipeline.
pub const ROWS_PER_STEP: u64 = 8;

pub struct Small {
    pub dir: TempDir,
    /// Where the store lies, if not in `dir`.
    url: Option<String>,
}

impl Small {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("opd test ").tempdir().unwrap();
        let small = Self { dir, url: None };
        small.write_model("student", 1, 16);
        small.write_model("teacher", 2, 24);
        let prompts = |n: usize| -> String {
            (0..n).map(|i| format!("{{\"prompt\": \"Q: {i} + {i}?\\nA:\", \"answer\": \"{}\"}}\n", 2 * i)).collect()
        };
        std::fs::write(small.path("train.jsonl"), prompts(24)).unwrap();
        std::fs::write(small.path("heldout.jsonl"), prompts(6)).unwrap();
        std::fs::write(small.path("small.toml"), PIPELINE).unwrap();
        small
    }

    /// The same with its store at `url`.
    pub fn stored_at(url: String) -> Self {
        Self { url: Some(url), ..Self::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> String {
        self.url.clone().unwrap_or_else(|| self.path("store").display().to_string())
    }

    pub fn write_model(&self, name: &str, seed: u64, hidden: usize) {
        tch::set_num_threads(1);
        let dir = self.path(name);
        std::fs::create_dir_all(&dir).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(arith().join("student").join(file), dir.join(file)).unwrap();
        }
        let config = std::fs::read_to_string(arith().join("student/config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        for (key, value) in [
            ("hidden_size", hidden),
            ("intermediate_size", 2 * hidden),
            ("num_hidden_layers", 1),
            ("num_attention_heads", 2),
            ("num_key_value_heads", 1),
            ("head_dim", 8),
            ("max_position_embeddings", 48),
        ] {
            config[key] = value.into();
        }
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let tokenizer = Tokenizer::load(&dir).unwrap();
        let config = ModelConfig::load(&dir).unwrap().with_real_vocab(tokenizer.vocab_size()).unwrap();
        Transformer::new_random(config, seed, Device::Cpu).unwrap().save(&dir, Precision::F32).unwrap();
    }

    /// Lets one token in eight end an answer, so that lengths differ.
    pub fn with_answers_of_any_length(self) -> Self {
        let path = self.path("student/config.json");
        let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let ends: Vec<usize> = (1..config["vocab_size"].as_u64().unwrap() as usize).step_by(8).collect();
        config["eos_token_id"] = ends.into();
        std::fs::write(&path, config.to_string()).unwrap();
        self
    }

    /// Adds a second teacher, `second`, to which every other prompt goes.
    pub fn with_two_teachers(self) -> Self {
        self.write_model("second", 5, 16);
        let prompts = std::fs::read_to_string(self.path("train.jsonl")).unwrap();
        let route = |(i, line): (usize, &str)| match i % 2 {
            0 => format!("{line}\n"),
            _ => line.replace('{', "{\"teacher_id\": \"second\", ") + "\n",
        };
        std::fs::write(self.path("train.jsonl"), prompts.lines().enumerate().map(route).collect::<String>()).unwrap();
        let pipeline = std::fs::read_to_string(self.path("small.toml")).unwrap();
        std::fs::write(self.path("small.toml"), format!("{pipeline}\n[teachers]\nsecond.model = \"second\"\n"))
            .unwrap();
        self
    }

    /// `opd COMMAND small.toml --set store.url=... --set ...`
    pub fn command(&self, command: &str, sets: &[&str]) -> Command {
        let mut program = opd();
        program.arg(command).arg(self.path("small.toml")).arg("--set").arg(format!("store.url={}", self.store()));
        program.args(sets.iter().flat_map(|set| ["--set", set]));
        program
    }

    pub fn run(&self, sets: &[&str]) -> Output {
        self.command("run", sets).output().unwrap()
    }

    /// The answer to a query as CSV lines, without the header.
    pub fn sql(&self, query: &str) -> Vec<String> {
        let output = opd().args(["sql", &self.store(), query, "--format", "csv"]).output().unwrap();
        assert!(output.status.success(), "{query}: {}", text(&output.stderr));
        text(&output.stdout).lines().skip(1).map(str::to_string).collect()
    }
}

/// A small run whose store is a prefix of its own in the bucket of `OPD_TEST_S3_URL`, which `storage/with-s3.sh` sets.
pub fn in_bucket() -> Option<Small> {
    let Ok(url) = std::env::var("OPD_TEST_S3_URL") else {
        eprintln!("not run: no OPD_TEST_S3_URL (storage/with-s3.sh sets it)");
        return None;
    };
    Some(Small::stored_at(format!("{url}/{}", store::unique_id())))
}

/// The program under test, with one thread and nothing on its standard input.
pub fn opd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opd"));
    command.env("OMP_NUM_THREADS", "1").env_remove("OPD_FAILPOINT").stdin(Stdio::null());
    command
}

/// Looks at something again and again until it is there.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let patience = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < patience, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes that `parent` has started.
pub fn children(parent: &Child) -> Vec<Pid> {
    // Any of its threads may have started them; a thread may end while this looks.
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", parent.id())) else { return Vec::new() };
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let text = lists.collect::<String>();
    text.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect()
}

pub fn arith() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/arith"))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts success and shows what was said if not.
pub fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
}

/// Asserts an error of the user's, status 2, and that it says each of `says`.
pub fn refused(output: &Output, says: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for words in says {
        assert!(said.contains(words), "should say {words:?}:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

const PIPELINE: &str = r#"
name = "small"
seed = 3
store = { url = "store", snapshot_every = 16 }
student.model = "student"
teacher.model = "teacher"
prompts.path = "train.jsonl"

[rollout]
prompts_per_unit = 4
max_new_tokens = 6
draws = 4
top_k_mass = 0.9
top_k_max = 4

[score]
top_k_max = 8

[learn]
steps = 4
rows_per_step = 8
estimator = { name = "reverse_kl_mc", draws = 4 }
checkpoint_every = 2
optimizer.learning_rate = 1e-2

[eval]
sets = { heldout = "heldout.jsonl" }
"#;

/// `opd COMMAND STORE ARGS`.
pub fn asked(small: &Small, command: &str, args: &[&str]) -> Output {
    opd().arg(command).arg(small.store()).args(args).output().unwrap()
}

/// What it says on standard output, and on standard error.
pub fn done(small: &Small, command: &str, args: &[&str]) -> (String, String) {
    let output = asked(small, command, args);
    succeeded(&output);
    (text(&output.stdout), text(&output.stderr))
}

/// Deletes what `gc` may, at once: a bucket tells time by the second.
pub fn collect(small: &Small) -> String {
    std::thread::sleep(Duration::from_millis(1_100));
    done(small, "gc", &["--grace", "0s"]).0
}
