//! The sessions at a terminal that documents show, run as a reader would run them.
//!
//! A line after `$ ` is a command, run by a shell in an empty folder; what follows is what it prints. A command that ends
//! with `&` goes on beside the others, and what follows is what it prints before the next one is run. `…` stands for
//! anything within a line. Ports are exchanged for free ones. `<<'END'` takes the lines up to `END` as a file, and
//! `kill %1` ends the first of the commands that go on. No command may take longer than a minute. A block that no test can run has its reason right above it:
//! `<!-- not run: it needs a registry -->`.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fanout_transport::testing::free_ports;

use crate::beside_the_tests;

/// For what a command that goes on has to print, or for the port that it has to open.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A command that takes longer, in seconds, is ended.
const WITHIN: &str = "60";

/// A session of a document.
#[derive(Debug)]
pub struct Transcript {
    steps: Vec<Step>,
    ports: Vec<u16>,
    folder: PathBuf,
    /// Where it has no folder of its own.
    _own: Option<tempfile::TempDir>,
    /// Programs before all others, and variables.
    programs: Option<PathBuf>,
    variables: Vec<(String, String)>,
    running: Vec<Child>,
    /// Something that goes on was told to read its files again, and may still be at it.
    is_read_again: bool,
}

#[derive(Debug)]
struct Step {
    command: String,
    goes_on: bool,
    prints: Vec<String>,
}

/// A block of commands in a document.
#[derive(Debug)]
pub struct Block {
    /// The line at which it begins, from 1.
    pub line: usize,
    /// The heading above it, as it is written.
    pub heading: String,
    /// What the fence says of it: `console`, `sh`.
    pub language: String,
    /// Why no test runs it: a comment right above the fence, `<!-- not run: REASON -->`.
    pub not_run: Option<String>,
    /// Its lines.
    pub text: String,
}

/// The blocks of commands in a document.
#[must_use]
pub fn blocks(document: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut heading = String::new();
    let mut above = "";
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let text: String = inside.map(|line| format!("{line}\n")).collect();
            if ["console", "sh", "bash", "shell"].contains(&language) {
                let reason = above.strip_prefix("<!-- not run: ");
                found.push(Block {
                    line: number + 1,
                    heading: heading.clone(),
                    language: language.to_owned(),
                    not_run: reason.and_then(|text| text.strip_suffix(" -->")).map(str::to_owned),
                    text,
                });
            }
        } else if line.starts_with('#') {
            line.clone_into(&mut heading);
        }
        above = line;
    }
    found
}

impl Transcript {
    /// The console blocks right below a heading that are to be run, one after another as one session. Each port of `ports`
    /// is exchanged for a free one.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn of(document: &str, heading: &str, ports: &[u16]) -> Self {
        let below = blocks(document)
            .into_iter()
            .filter(|block| block.heading == heading && block.language == "console" && block.not_run.is_none());
        let mut session: String = below.map(|block| block.text).collect();
        assert!(!session.is_empty(), "there is a console block below {heading}");
        let free = free_ports(ports.len());
        for (port, free) in ports.iter().zip(&free) {
            session = session.replace(&format!(":{port}"), &format!(":{free}"));
            session = session.replace(&format!("-p {port}"), &format!("-p {free}"));
        }
        let own = tempfile::tempdir().expect("there is a folder to run it in");
        Self {
            steps: steps(&session),
            ports: free,
            folder: own.path().to_owned(),
            _own: Some(own),
            programs: None,
            variables: Vec::new(),
            running: Vec::new(),
            is_read_again: false,
        }
    }

    /// The same in a folder that others have been in, with programs that are there and nowhere else, and variables.
    #[must_use]
    pub fn at(mut self, folder: &Path, programs: &Path, variables: &[(String, String)]) -> Self {
        folder.clone_into(&mut self.folder);
        self.programs = Some(programs.to_owned());
        self.variables = variables.to_vec();
        self
    }

    fn shell(&self, by: &[&str], command: &str) -> Command {
        let mut shell = shell(by, command, &self.folder, self.programs.as_deref());
        shell.envs(self.variables.iter().map(|(name, value)| (name, value)));
        shell
    }

    /// Runs it, and holds what is printed to what is shown.
    ///
    /// # Panics
    /// At the first command that prints something else.
    pub fn run(mut self) {
        for step in std::mem::take(&mut self.steps) {
            if step.goes_on {
                self.start(&step);
            } else if let Some(arguments) = step.command.strip_prefix("kill ") {
                self.kill(arguments);
            } else {
                self.runs(&step);
            }
        }
    }

    /// Runs a command to its end. After a SIGHUP it is run until it prints what is shown: a person's fingers are
    /// slower.
    fn runs(&mut self, step: &Step) {
        let end = Instant::now() + READY_WITHIN;
        loop {
            let mut command = self.shell(&["timeout", WITHIN, "sh"], &step.command);
            let output = command.stderr(Stdio::piped()).output().expect("a shell runs");
            let printed = String::from_utf8_lossy(&output.stdout);
            let lines: Vec<_> = printed.lines().collect();
            let as_shown = output.status.success()
                && lines.len() == step.prints.len()
                && lines.iter().zip(&step.prints).all(|(line, shown)| is_like(shown, line));
            if as_shown {
                break;
            }
            assert!(
                self.is_read_again && Instant::now() < end,
                "`{}` prints\n{printed}\nand not\n{}\n{}",
                step.command,
                step.prints.join("\n"),
                String::from_utf8_lossy(&output.stderr)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        self.is_read_again = false;
    }

    /// `kill %2` ends the second of the commands that go on, and waits until it has ended; `kill -HUP %2` sends it that
    /// signal.
    fn kill(&mut self, arguments: &str) {
        let (signal, job) = arguments.split_once(" %").unwrap_or(("-TERM", arguments));
        let number: usize = job.trim_start_matches('%').parse().expect("a number of a command");
        let child = &mut self.running[number - 1];
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "`kill {arguments}` fails");
        if signal == "-HUP" {
            self.is_read_again = true;
            return;
        }
        let end = Instant::now() + READY_WITHIN;
        while child.try_wait().expect("it is our child").is_none() {
            assert!(Instant::now() < end, "`kill {arguments}` does not end it");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts what goes on, and waits for what it prints, or for its port: a person's fingers are slower.
    fn start(&mut self, step: &Step) {
        let mut command = self.shell(&["sh"], &format!("exec {}", step.command));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a shell runs");
        let output = child.stdout.take().expect("its output is ours");
        self.running.push(child);
        let (lines, printed) = mpsc::channel();
        std::thread::spawn(move || {
            // Read to its end, so that the command never waits for whoever reads.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.send(line).ok();
            }
        });
        for shown in &step.prints {
            let line = printed.recv_timeout(READY_WITHIN);
            let line = line.unwrap_or_else(|_| panic!("`{}` does not print {shown:?}", step.command));
            let command = &step.command;
            assert!(is_like(shown, &line), "`{command}` prints {line:?}, not {shown:?}");
        }
        let opens = |port: &&u16| step.command.ends_with(&format!("-p {port}"));
        if let Some(port) = self.ports.iter().find(opens) {
            wait_for(*port);
        }
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        // In the reverse order: what was started last needs what was started first.
        for mut child in self.running.drain(..).rev() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// What a session does, step by step.
fn steps(session: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = session.lines();
    while let Some(line) = lines.next() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => {
                let mut step = Step {
                    command: command.trim_end_matches(" &").to_owned(),
                    goes_on: command.ends_with(" &"),
                    prints: Vec::new(),
                };
                if let Some((_, end)) = command.split_once("<<'") {
                    let end = end.split('\'').next().unwrap_or_default();
                    for line in lines.by_ref() {
                        step.command.push('\n');
                        step.command.push_str(line);
                        if line == end {
                            break;
                        }
                    }
                }
                steps.push(step);
            }
            (None, Some(step)) if step.command.ends_with('\\') => {
                step.command.push('\n');
                step.command.push_str(line.trim_end_matches(" &"));
                step.goes_on = line.ends_with(" &");
            }
            (None, Some(step)) => step.prints.push(line.to_owned()),
            (None, None) => panic!("a console block begins with a command: {line}"),
        }
    }
    steps
}

/// A command, run by a shell, with Fanout's programs and nats-server on the path, and without variables that say where a bus or a server is.
fn shell(by: &[&str], command: &str, folder: &Path, programs: Option<&Path>) -> Command {
    let fanout = beside_the_tests("fanout");
    let server = PathBuf::from(std::env::var_os("FANOUT_NATS_SERVER").unwrap_or_else(|| "nats-server".into()));
    let folders = [&fanout, &server].into_iter().filter_map(|program| program.parent());
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let inherited = std::env::split_paths(&inherited).collect::<Vec<_>>();
    let folders = programs.into_iter().chain(folders).map(Path::to_owned);
    let path = std::env::join_paths(folders.chain(inherited)).expect("a path of folders");
    let mut shell = Command::new(by[0]);
    shell
        .args(&by[1..])
        .args(["-c", command])
        .current_dir(folder)
        .env("PATH", path)
        .env("XDG_CONFIG_HOME", folder)
        .env_remove("NATS_URL")
        .env_remove("NATS_CONTEXT")
        .env_remove("FANOUT_BUS")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    shell
}

/// Whether a line is the one that is shown: `…` stands for anything.
fn is_like(shown: &str, line: &str) -> bool {
    let mut rest = line;
    let mut pieces = shown.split('…').enumerate().peekable();
    while let Some((place, piece)) = pieces.next() {
        let is_last = pieces.peek().is_none();
        let found = match (place, is_last) {
            (0, true) => return rest == piece,
            (0, false) => rest.starts_with(piece).then_some(0),
            (_, true) => return rest.ends_with(piece),
            (_, false) => rest.find(piece),
        };
        let Some(found) = found else { return false };
        rest = &rest[found + piece.len()..];
    }
    true
}

fn wait_for(port: u16) {
    let end = Instant::now() + READY_WITHIN;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "port {port} is not opened");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_a_heading_and_may_say_why_it_is_not_run() {
        let page = "# A\n\n```console\n$ true\n```\n\n## B\n\
                    <!-- not run: it is slow -->\n```sh\n# no heading\nsleep 9\n```\n```toml\n```\n";
        let found: Vec<_> = blocks(page)
            .into_iter()
            .map(|block| (block.line, block.heading, block.language, block.not_run))
            .collect();
        assert_eq!(
            found,
            [
                (3, "# A".to_owned(), "console".to_owned(), None),
                (9, "## B".to_owned(), "sh".to_owned(), Some("it is slow".to_owned())),
            ]
        );
    }

    #[test]
    fn a_session_is_read_as_a_person_types_it() {
        let read = steps("$ cat > a <<'END'\n$ b\nEND\n$ c \\\n    d &\nready\n$ kill %1\n");
        let commands: Vec<_> = read.iter().map(|step| (step.command.as_str(), step.goes_on)).collect();
        assert_eq!(
            commands,
            [
                ("cat > a <<'END'\n$ b\nEND", false),
                ("c \\\n    d", true),
                ("kill %1", false)
            ]
        );
        assert_eq!(read[1].prints, ["ready"]);
    }

    #[test]
    fn a_line_is_like_the_one_that_is_shown() {
        assert!(is_like("a b", "a b"));
        assert!(!is_like("a b", "a b c"));
        assert!(is_like("a … c", "a x y c"));
        assert!(is_like("…c", "abc") && is_like("a…", "abc") && is_like("…", ""));
        assert!(!is_like("a … c", "b x c") && !is_like("a … c", "a x d"));
        assert!(is_like("a…b…c", "a1b2c") && !is_like("a…b…c", "a1c"));
    }
}
