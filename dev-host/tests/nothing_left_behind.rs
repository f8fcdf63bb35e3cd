//! However `fanout-dev` ends, no process and no folder of its run outlives it.
//!
//! Real nats-server (`FANOUT_NATS_SERVER`, else the one on the path), real wadm and host; an application with the
//! built-in HTTP server only. Each run has a temporary folder of its own, which its processes carry in their command
//! lines, so that leftovers are found by it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fanout-dev");
const LIMIT: Duration = Duration::from_secs(60);

const MANIFEST: &str = r#"
apiVersion: core.oam.dev/v1beta1
kind: Application
metadata:
  name: nothing-but-http
  annotations:
    version: v0.0.1
spec:
  components:
    - name: http
      type: capability
      properties:
        image: wasmcloud+builtin://http-server
"#;

struct Run {
    temporary: TempDir,
    logs: TempDir,
    child: Child,
    input: Option<ChildStdin>,
}

impl Run {
    /// Starts `fanout-dev up` with this manifest.
    fn start(manifest: &str) -> Self {
        let temporary = TempDir::new().expect("a folder");
        let logs = TempDir::new().expect("a folder");
        let path = logs.path().join("manifest.yaml");
        std::fs::write(&path, manifest).expect("written");
        let mut child = Command::new(PROGRAM)
            .args(["up", "--json", "--manifest"])
            .arg(path)
            .arg("--logs")
            .arg(logs.path().join("kept"))
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let input = child.stdin.take();
        Self {
            temporary,
            logs,
            child,
            input,
        }
    }

    /// Starts it and waits until it is ready.
    fn ready() -> Self {
        let mut run = Self::start(MANIFEST);
        let mut line = String::new();
        let output = run.child.stdout.as_mut().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line).expect("the READY line");
        assert!(
            ready["nats"]
                .as_str()
                .is_some_and(|url| url.starts_with("nats://127.0.0.1:")),
            "{ready}"
        );
        assert!(!run.processes().is_empty(), "its server runs");
        run
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("an id"), signal).expect("signalled");
    }

    fn ended(&mut self) -> ExitStatus {
        eventually("the process to end", || self.child.try_wait().expect("waited"))
    }

    /// The processes that have the run's folder in their command line.
    fn processes(&self) -> Vec<String> {
        let folder = self.temporary.path().to_string_lossy().into_owned();
        let mut system = System::new();
        let wanted = ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always);
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, wanted);
        let lines = system.processes().values().map(|process| {
            let words = process.cmd().iter().map(|word| word.to_string_lossy().into_owned());
            words.collect::<Vec<_>>().join(" ")
        });
        lines.filter(|line| line.contains(&folder)).collect()
    }

    fn left(&self) -> Vec<String> {
        let mut left = self.processes();
        let entries = std::fs::read_dir(self.temporary.path()).expect("the folder");
        left.extend(entries.map(|entry| entry.expect("an entry").path().display().to_string()));
        left
    }

    fn kept_logs(&self) -> bool {
        self.logs.path().join("kept").exists()
    }
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn after_ctrl_c() {
    let mut run = Run::ready();
    run.signal(Signal::INT);
    assert_eq!(run.ended().code(), Some(130));
    assert_eq!(run.left(), [""; 0]);
    assert!(!run.kept_logs());
}

#[test]
fn after_ctrl_c_while_it_starts() {
    let mut run = Run::start(MANIFEST);
    eventually("its server to start", || (!run.processes().is_empty()).then_some(()));
    run.signal(Signal::INT);
    assert_eq!(run.ended().code(), Some(130));
    assert_eq!(run.left(), [""; 0]);
}

#[test]
fn after_the_end_of_its_input() {
    let mut run = Run::ready();
    drop(run.input.take());
    assert_eq!(run.ended().code(), Some(0));
    assert_eq!(run.left(), [""; 0]);
}

#[test]
fn after_sigkill() {
    let mut run = Run::ready();
    run.signal(Signal::KILL);
    assert!(!run.ended().success());
    eventually("the guard to clean up", || run.left().is_empty().then_some(()));
}

#[test]
fn after_a_failure_but_its_logs() {
    let mut run = Run::start("not: a manifest\n");
    assert_eq!(run.ended().code(), Some(1));
    assert_eq!(run.left(), [""; 0]);
    assert!(run.kept_logs());
}

/// Starts a guarded `sleep` with a folder to remove.
fn guarded() -> (Child, TempDir, std::path::PathBuf) {
    let outer = TempDir::new().expect("a folder");
    let folder = outer.path().join("run");
    std::fs::create_dir(&folder).expect("made");
    let child = Command::new(PROGRAM)
        .args(["guard", "--remove"])
        .arg(&folder)
        .args(["--", "sleep", "600"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("started");
    eventually("the guarded command to run", || sleeping(child.id()).then_some(()));
    (child, outer, folder)
}

fn sleeping(guard: u32) -> bool {
    let mut system = System::new();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, ProcessRefreshKind::nothing());
    let parent = sysinfo::Pid::from_u32(guard);
    system
        .processes()
        .values()
        .any(|process| process.parent() == Some(parent) && process.name() == "sleep")
}

fn end_and_check(mut child: Child, folder: &Path, farewell: &[u8], folder_stays: bool) {
    let guard = child.id();
    let mut input = child.stdin.take().expect("piped");
    input.write_all(farewell).expect("written");
    drop(input);
    assert!(child.wait().expect("waited").success());
    assert!(!sleeping(guard));
    assert_eq!(folder.exists(), folder_stays);
}

#[test]
fn a_guard_whose_parent_vanished_removes_the_folder() {
    let (child, _outer, folder) = guarded();
    end_and_check(child, &folder, b"", false);
}

#[test]
fn a_guard_whose_parent_said_farewell_leaves_the_folder_to_it() {
    let (child, _outer, folder) = guarded();
    end_and_check(child, &folder, b".", true);
}
