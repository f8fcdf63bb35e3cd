//! The machines of the runbook, on this one: `ssh`, `scp` and `systemctl` as its commands use them.
//!
//! A machine is a folder with `/etc`, `/usr/local` and `/var` of its own, and an address that its programs listen on is a port
//! of the loopback. `ssh MACHINE` runs a command there with those paths put in place; `systemctl` asks the test, whose
//! children the services are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a service may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(20);
const LOOKS_EVERY: Duration = Duration::from_millis(10);

const SSH: &str = r##"#!/bin/sh
host=$1
shift
test -d "$MACHINES/$host" || { echo "ssh: no machine $host" >&2; exit 255; }
port=$(cat "$MACHINES/$host/monitor" 2> /dev/null)
command=$(printf '%s' "$*" | sed -E "s#(^|[ =:'])/(etc|var|usr/local)/#\1$MACHINES/$host/\2/#g; s#127\.0\.0\.1:8222#127.0.0.1:$port#g")
cd "$MACHINES/$host" && MACHINE=$host PATH=$MACHINES/$host/usr/local/bin:$PATH
export MACHINE PATH
set -a
test -e environment && . ./environment
exec sh -c "$command"
"##;

const SCP: &str = r#"#!/bin/sh
for to; do :; done
while test $# -gt 1; do
    cp --force --recursive "$1" "$MACHINES/${to%%:*}${to#*:}" || exit 1
    shift
done
"#;

const SYSTEMCTL: &str = r#"#!/bin/sh
id=$$
echo "$MACHINE $*" > "$MACHINES/asked/.$id" && mv "$MACHINES/asked/.$id" "$MACHINES/asked/$id"
until test -e "$MACHINES/answered/$id"; do sleep 0.01; done
answer=$(cat "$MACHINES/answered/$id")
rm "$MACHINES/answered/$id"
test -z "$answer" && exit 0
echo "$answer" >&2
exit 1
"#;

/// All of them; their services end with this.
pub(crate) struct Machines {
    root: tempfile::TempDir,
    ended: Arc<AtomicBool>,
    services: Option<JoinHandle<()>>,
}

impl Machines {
    /// So many machines, by name, on which nothing runs.
    pub(crate) fn new(names: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = root.path().join(name);
            fs::create_dir_all(&folder).unwrap();
            folder
        };
        for name in names {
            for inside in ["etc/nats", "etc/fanout", "usr/local/bin", "var/lib", "units"] {
                folder(&format!("{name}/{inside}"));
            }
        }
        folder("asked");
        folder("answered");
        for (name, script) in [("ssh", SSH), ("scp", SCP), ("systemctl", SYSTEMCTL)] {
            let path = folder("bin").join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let ended = Arc::new(AtomicBool::new(false));
        let services = std::thread::spawn({
            let (root, ended) = (root.path().to_owned(), Arc::clone(&ended));
            move || {
                Services {
                    root,
                    running: BTreeMap::new(),
                }
                .answer_until(&ended)
            }
        });
        Self {
            root,
            ended,
            services: Some(services),
        }
    }

    /// The folder of one, or of what all have.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Where `ssh`, `scp` and `systemctl` are.
    pub(crate) fn programs(&self) -> PathBuf {
        self.folder("bin")
    }

    /// Writes a file of a machine.
    pub(crate) fn write(&self, machine: &str, path: &str, text: &str) {
        fs::write(self.folder(machine).join(path), text).unwrap();
    }

    /// Has a command run on a machine, as the page's commands are.
    pub(crate) fn ssh(&self, machine: &str, command: &str) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let programs = std::iter::once(self.programs()).chain(std::env::split_paths(&path));
        let done = Command::new(self.programs().join("ssh"))
            .args([machine, command])
            .env("MACHINES", self.root.path())
            .env("PATH", std::env::join_paths(programs).unwrap())
            .status();
        assert!(done.unwrap().success(), "{machine}: {command}");
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(services) = self.services.take() {
            drop(services.join());
        }
        if std::thread::panicking() {
            show_logs(self.root.path());
        }
    }
}

/// What the services of each machine logged last.
fn show_logs(root: &Path) {
    for machine in fs::read_dir(root).into_iter().flatten().flatten() {
        for file in fs::read_dir(machine.path()).into_iter().flatten().flatten() {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                eprintln!("--- {} ---", path.display());
                eprintln!("{}", lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
    }
}

/// Does what `systemctl` asks for.
struct Services {
    root: PathBuf,
    /// By machine and unit.
    running: BTreeMap<(String, String), Child>,
}

impl Services {
    fn answer_until(mut self, ended: &AtomicBool) {
        while !ended.load(Ordering::Relaxed) {
            let asked = fs::read_dir(self.root.join("asked")).unwrap().flatten();
            let asked: Vec<_> = asked
                .filter(|file| !file.file_name().to_string_lossy().starts_with('.'))
                .collect();
            for file in asked {
                let words = fs::read_to_string(file.path()).unwrap();
                fs::remove_file(file.path()).unwrap();
                let words: Vec<_> = words.split_whitespace().collect();
                let answer = match words[..] {
                    [machine, "start", unit] => self.start(machine, unit),
                    [machine, "stop", unit] => self.stop(machine, unit, "TERM"),
                    [machine, "kill", "--signal=KILL", unit] => self.stop(machine, unit, "KILL"),
                    [machine, "restart", unit] => self
                        .stop(machine, unit, "TERM")
                        .and_then(|()| self.start(machine, unit)),
                    [machine, "reload", unit] => self.signal(machine, unit, "HUP"),
                    _ => Err(format!("systemctl: {words:?} is not understood")),
                };
                let answered = self.root.join("answered");
                let beside = answered.join(".answer");
                fs::write(&beside, answer.err().unwrap_or_default()).unwrap();
                fs::rename(beside, answered.join(file.file_name())).unwrap();
            }
            std::thread::sleep(LOOKS_EVERY);
        }
        for mut child in std::mem::take(&mut self.running).into_values() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// A service is the script of its unit, which becomes its program.
    fn start(&mut self, machine: &str, unit: &str) -> Result<(), String> {
        let key = (machine.to_owned(), unit.to_owned());
        if let Some(child) = self.running.get_mut(&key)
            && child.try_wait().unwrap().is_none()
        {
            return Ok(());
        }
        let folder = self.root.join(machine);
        let script = folder.join("units").join(unit);
        if !script.exists() {
            return Err(format!("Unit {unit} not found on {machine}."));
        }
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join(format!("{unit}.log")))
            .unwrap();
        let child = Command::new("sh")
            .arg(script)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.running.insert(key, child.map_err(|e| e.to_string())?);
        Ok(())
    }

    fn stop(&mut self, machine: &str, unit: &str, signal: &str) -> Result<(), String> {
        let key = (machine.to_owned(), unit.to_owned());
        let Some(mut child) = self.running.remove(&key) else {
            return Ok(());
        };
        if child.try_wait().unwrap().is_some() {
            return Ok(());
        }
        send(child.id(), signal)?;
        let end = Instant::now() + STOPS_WITHIN;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                drop(child.kill());
                drop(child.wait());
                return Err(format!("{unit} on {machine} did not stop in time"));
            }
            std::thread::sleep(LOOKS_EVERY);
        }
        Ok(())
    }

    fn signal(&mut self, machine: &str, unit: &str, signal: &str) -> Result<(), String> {
        match self.running.get(&(machine.to_owned(), unit.to_owned())) {
            Some(child) => send(child.id(), signal),
            None => Err(format!("{unit} on {machine} does not run")),
        }
    }
}

fn send(process: u32, signal: &str) -> Result<(), String> {
    let sent = Command::new("kill").args(["-s", signal, &process.to_string()]).status();
    match sent {
        Ok(sent) if sent.success() => Ok(()),
        _ => Err(format!("{process} can't be sent SIG{signal}")),
    }
}
