//! `opd sql` as people use it: a shell on a terminal, statements on standard input, several stores, Ctrl-C.

use crate::support::{Small, opd, refused, succeeded, text, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A question of 10^10 rows, which nobody waits for.
const ENDLESS: &str = "select count(*) from (select unnest(range(0, 100000)) as x) a \
    cross join (select unnest(range(0, 100000)) as y) b where x * y = -1";

/// What `opd sql ARGS` makes of `input`.
fn fed(args: &[&str], input: &str) -> Output {
    let mut child = opd()
        .arg("sql")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What a shell on a terminal shows, and how it ends, when this is typed at it.
fn typed(store: &str, state: &Path, steps: &[Value]) -> Output {
    on_terminal(&[env!("CARGO_BIN_EXE_opd"), "sql", store], "xterm", state, steps)
}

/// The same of a program on a terminal that is called `term`.
fn on_terminal(program: &[&str], term: &str, state: &Path, steps: &[Value]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shell.py");
    let mut child = Command::new("python3")
        .arg(script)
        .args(program)
        .env("XDG_STATE_HOME", state)
        .env("TERM", term)
        .env("OMP_NUM_THREADS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(Value::from(steps).to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn say(text: &str) -> Value {
    json!({ "type": text })
}

fn see(text: &str) -> Value {
    json!({ "expect": text })
}

/// The editor begins to read: not an earlier prompt, drawn once more.
fn begins() -> Value {
    see("\x1b[?2004h")
}

#[test]
fn a_shell_completes_continues_explains_and_remembers() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=1"]));
    let state = small.path("state");
    let output = typed(
        &small.store(),
        &state,
        &[
            see("opd> "),
            // A table and one of its columns are completed.
            say("select max(policy\t) + 41 as answer from poli\t;\r"),
            see("answer\r\n"),
            see("42\r\n"),
            see("opd> "),
            say("select 6 *\r7 as product\r;\r"),
            see("product"),
            see("42\r\n"),
            see("opd> "),
            say("\\d\r"),
            see("step_records"),
            see("opd> "),
            say("\\d steps\r"),
            see("weights_digest"),
            see("opd> "),
            say("select nonsense from\r nowhere\x03"),
            begins(),
            see("opd> "),
            say("select 5 + 5 as ten; select stalenes from consumed; select 1 as not_asked;\r"),
            see("10\r\n"),
            see("did you mean `staleness`?"),
            see("opd> "),
            say("\\at 0\r"),
            see("opd@0> "),
            say("select count(*) + 700 as then from commits;\r"),
            see("701\r\n"),
            see("opd@0> "),
            say("\\at live\r"),
            see("opd> "),
            say("\\format csv\r\\timing\r"),
            see("timing is on"),
            say("select 'a' as x, 2 as y;\r"),
            see("x,y"),
            see("a,2"),
            see(" s"),
            see("opd> "),
            say(&format!("{ENDLESS};\r")),
            see("working"),
            say("\x03"),
            see("stopped"),
            see("opd> "),
            say("\\q\r"),
        ],
    );
    let screen = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{screen}");
    assert!(!screen.contains("not_asked\r\n---"), "an error ends what was typed with it:\n{screen}");
    let history = std::fs::read_to_string(state.join("opd/history")).unwrap();
    assert!(history.contains("as product") && !history.contains("nonsense"), "{history}");
    // The last line of another day is a key away; it is the end. Ctrl-D is too.
    let again = typed(&small.store(), &state, &[see("opd> "), say("\x1b[A"), see("\\q"), say("\r")]);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stdout));
    let nowhere = Path::new("/proc/nowhere");
    let output =
        typed(&small.store(), nowhere, &[see("opd> "), say("select 8 * 8;\r"), see("64"), see("opd> "), say("\x04")]);
    let screen = text(&output.stdout);
    assert!(output.status.code() == Some(0) && !screen.contains("error"), "{screen}");
}

#[test]
fn a_shell_takes_what_is_pasted_wide_characters_and_a_narrow_terminal() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=1"]));
    let narrow = json!({ "columns": 17 });
    let output = typed(
        &small.store(),
        &small.path("state"),
        &[
            see("opd> "),
            // Nothing pasted is a key: neither the tab nor the ends of lines.
            say("\x1b[200~select 10 +\tse as pasted;\nselect 'b' as other;\n\x1b[201~"),
            say("\x01\x1b[C\x05\r"),
            see("there is no column `se`"),
            begins(),
            say("\x1b[200~select 10 +\n32 as pasted;\nselect 'b' || 'c' as other;\x1b[201~\r"),
            see("42\r\n"),
            see("bc\r\n"),
            begins(),
            see("opd> "),
            narrow,
            json!({ "wait": 0.3 }),
            // Ten to the right, over two that are wide, and another put behind them.
            say("select '字字e\u{301}👩‍🚀' || '🎉' as x, 6 * 7 as y;\x01"),
            say(&"\x1b[C".repeat(10)),
            say("語\r"),
            see("42\r\n"),
            begins(),
            say("\x1b[A\x1b[A\x1b[B\x12pasted\r"),
            see("42\r\n"),
            begins(),
            say("\x04"),
        ],
    );
    let screen = text(&output.stdout);
    assert!(output.status.code() == Some(0) && !screen.contains("internal error"), "{screen}");
    let history = std::fs::read_to_string(small.path("state/opd/history")).unwrap();
    assert!(history.contains("select '字字語e\u{301}👩‍🚀' || '🎉' as x"), "{history}");
}

#[test]
fn a_shell_draws_on_the_terminal_and_not_into_the_data() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=1"]));
    for term in ["xterm", "dumb"] {
        let out = small.path(&format!("{term}.csv"));
        let redirect = "exec \"$0\" sql \"$1\" --format csv > \"$2\"";
        let program = ["/bin/sh", "-c", redirect, env!("CARGO_BIN_EXE_opd"), &small.store(), out.to_str().unwrap()];
        let steps = [
            see("opd> "),
            say("select 6 *\r7 as x;\r"),
            see("opd> "),
            json!({ "wait": 0.3 }),
            say("select nonsense;\r"),
            see("there is no column `nonsense`"),
            see("opd> "),
            say("select 2 as x;\r\\q\r"),
        ];
        let output = on_terminal(&program, term, &small.path("state"), &steps);
        assert_eq!(output.status.code(), Some(0), "{term}: {}", text(&output.stdout));
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "x\n42\nx\n2\n", "{term}: {}", text(&output.stdout));
    }
}

#[test]
fn statements_are_read_from_standard_input() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=1"]));
    let store = small.store();
    let output = fed(
        &[&store, "--format", "csv"],
        "-- a comment; with a semicolon\nselect ';' as x;\n\\at 0\nselect count(*) as n from commits;;\n\\format json\n\
         select 'it''s' as y -- the last needs none",
    );
    succeeded(&output);
    assert_eq!(text(&output.stdout), "x\n;\nn\n1\n[\n{\"y\": \"it's\"}\n]\n");
    let output = fed(&[&store, "--format", "csv"], "select 1 as x; select stalenes from consumed; select 2 as x;");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), "x\n1\n".to_string()));
    assert!(text(&output.stderr).contains("did you mean `staleness`?"), "{}", text(&output.stderr));
    let output = fed(&[&store], "select 1 as x;\n\\nosuch\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`\\nosuch`: there is no such command"), "{}", text(&output.stderr));
    succeeded(&fed(&[&store], ""));
    // A store with a name has a past too; of several, each has its own.
    let (named, count) = (format!("a={store}"), "select count(*) as n from a.commits;");
    let alone = ["--store", &named, "--format", "csv"];
    let output = fed(&alone, &format!("{count}\\at 0\n{count}\\at live\n{count}"));
    succeeded(&output);
    let said = text(&output.stdout);
    let counts: Vec<&str> = said.lines().filter(|line| *line != "n").collect();
    assert!(counts.len() == 3 && counts[1] == "1" && counts[0] == counts[2] && counts[0] != "1", "{said}");
    let output = fed(&[&alone[..], &["--at", "1"]].concat(), count);
    assert_eq!(text(&output.stdout), "n\n2\n", "{}", text(&output.stderr));
    let other = named.replacen('a', "b", 1);
    let both = ["--store", &named, "--store", &other];
    refused(&fed(&both, "\\at 0\n"), &["`\\at` is of one store, and there are 2\nhint: open one alone"]);
    refused(&opd().arg("sql").args(both).args(["--at", "0", count]).output().unwrap(), &["--at is of one store"]);
}

#[test]
fn several_stores_are_schemas_that_join() {
    let (one, two) = (Small::new(), Small::new());
    succeeded(&one.run(&["learn.steps=2"]));
    succeeded(&two.run(&["learn.steps=3", "learn.optimizer.learning_rate=2e-2"]));
    let (a, b) = (format!("a={}", one.store()), format!("b={}", two.store()));
    let ask = |query: &str| {
        let output = opd().args(["sql", "--store", &a, "--store", &b, query, "--format", "csv"]).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (_, rows, said) =
        ask("select step, a.steps.weights_digest = b.steps.weights_digest as same, a.steps.lr < b.steps.lr as faster \
         from a.steps join b.steps using (step) order by step");
    assert_eq!(rows, "step,same,faster\n1,false,true\n2,false,true\n", "{said}");
    let sql = "select (select count(*) from a.budgets) as a, (select count(*) from b.tokens) > 0 as b, \
        (select detokenize(array_agg(token_id)) from b.tokens where step = 1) is not null as text";
    assert_eq!(ask(sql).1, "a,b,text\n14,true,true\n", "{}", ask(sql).2);
    assert!(ask("show tables").1.contains("\na.budgets,") && ask("show tables").1.contains("\nb.work,"));
    assert!(ask("describe b.steps").1.contains("weights_digest"));
    for (query, says) in [
        ("select * from steps", "there is no table `steps`\nhint: say in which store: a.steps, b.steps"),
        ("select * from a.stepz", "there is no table `a.stepz`\nhint: did you mean `steps`?"),
        ("select * from other.steps", "`other` is no store here; stores: a, b"),
        ("select los from a.steps", "`a.metrics` has it"),
        ("select lozz from b.steps", "there is no column `lozz`"),
        ("delete from a.steps", "`DELETE` is refused"),
    ] {
        let (status, _, said) = ask(query);
        assert!(
            status == Some(2) && said.contains(says.replace("`a.metrics` has it", "did you mean `loss`").as_str()),
            "{query}: {said}"
        );
    }
    for (args, says) in [
        (&["--store", "a"][..], "--store `a`: expected NAME=STORE"),
        (&["--store", "A=x"], "a store is called `A`: expected lower-case letters"),
        (&["--store", &a, "--store", &a], "expected a name of its own for each store"),
        (&["--store", &a, "select 1", "select 2"], "`select 2` is one word too many beside --store"),
        (&[], "no store was given"),
    ] {
        let args: Vec<String> = args.iter().map(|arg| arg.replace("A=x", &a.replacen('a', "A", 1))).collect();
        let output = opd().arg("sql").args(&args).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(says), "{args:?}: {said}");
    }
}

#[test]
fn ctrl_c_stops_a_question_at_once() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=1"]));
    let mut child = opd().args(["sql", &small.store(), ENDLESS]).stderr(Stdio::piped()).spawn().unwrap();
    // It listens once it works: before, the signal ends it the hard way.
    let stat = format!("/proc/{}/status", child.id());
    let listens = || std::fs::read_to_string(&stat).ok()?.lines().any(is_sigint_caught).then_some(());
    wait_for("the question", listens);
    std::thread::sleep(Duration::from_millis(300));
    let pressed = Instant::now();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(pressed.elapsed() < Duration::from_secs(3), "{:?}", pressed.elapsed());
}

fn is_sigint_caught(line: &str) -> bool {
    let mask = line.strip_prefix("SigCgt:").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (Signal::INT.as_raw() - 1)) != 0)
}

#[test]
fn an_answer_goes_to_a_file() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=1"]));
    let path = small.path("steps.csv");
    let args =
        ["sql", &small.store(), "select step, rows from steps", "--format", "csv", "--out", path.to_str().unwrap()];
    let output = opd().args(args).output().unwrap();
    succeeded(&output);
    assert_eq!(
        (text(&output.stdout), std::fs::read_to_string(&path).unwrap()),
        (String::new(), "step,rows\n1,8\n".into())
    );
}
