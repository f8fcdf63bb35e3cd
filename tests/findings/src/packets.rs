//! A line between this machine and a network namespace, whose packets are delayed and lost: what netem does in the
//! kernel, done here, since many kernels come without it.
//!
//! Two TUN devices, one on each side; this process carries packets from one to the other. TCP and QUIC above are the real
//! ones and meet real loss, with all that they do about it. Needs root, `/dev/net/tun`, and the commands `ip`, `unshare`
//! and `nsenter`. The namespace lives as long as the process that holds it, which ends when its input does: nothing is
//! left behind, however this one ends.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::TrySendError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::sync::watch;

use crate::experiment::mixed;

/// This side's address and the other's: of the block that is set aside for benchmarks (RFC 2544).
const NEAR: &str = "198.18.0.1";
pub(crate) const FAR: &str = "198.18.0.2";
const PREFIX: u8 = 30;
/// Packets under way in one direction; more are dropped, as a router does.
const QUEUE: usize = 10_000;
const LARGEST: usize = 2_048;

/// What befalls a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Weather {
    /// One way.
    pub(crate) delay: Duration,
    /// Of a thousand packets, in each direction.
    pub(crate) lost_per_mille: u64,
}

/// Says which packets are lost; the same ones for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mixed(seed.wrapping_add(1)))
    }

    pub(crate) fn lost(&mut self, weather: Weather) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0) % 1_000 < weather.lost_per_mille
    }
}

/// The line.
pub(crate) struct Line {
    holder: Child,
    weather: watch::Sender<Weather>,
    dropped: Arc<AtomicU64>,
    near: String,
}

impl Line {
    /// Makes a namespace and a line to it.
    pub(crate) async fn open(seed: u64) -> Result<Self> {
        let id = std::process::id();
        let (near_name, far_name) = (format!("fon{id}"), format!("fof{id}"));
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("unshare can't be run")?;
        let mut line = Self {
            holder,
            weather: watch::Sender::new(Weather::default()),
            dropped: Arc::default(),
            near: near_name.clone(),
        };
        line.in_a_namespace().await?;
        let (near, far) = (device(&near_name)?, device(&far_name)?);
        let there = line.holder.id().to_string();
        run("ip", &["link", "set", &far_name, "netns", &there])?;
        run("ip", &["addr", "add", &format!("{NEAR}/{PREFIX}"), "dev", &near_name])?;
        run("ip", &["link", "set", &near_name, "up"])?;
        for arguments in [
            ["addr", "add", &format!("{FAR}/{PREFIX}"), "dev", &far_name].as_slice(),
            &["link", "set", "lo", "up"],
            &["link", "set", &far_name, "up"],
        ] {
            let enter = line.enter();
            let mut all: Vec<&str> = enter.iter().map(String::as_str).skip(1).collect();
            all.push("ip");
            all.extend(arguments);
            run("nsenter", &all)?;
        }
        for (from, to, seed) in [(&near, &far, seed), (&far, &near, seed.wrapping_add(1))] {
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            carry(from, to, line.weather.subscribe(), Arc::clone(&line.dropped), seed);
        }
        Ok(line)
    }

    /// Waits until the holder has left this namespace.
    async fn in_a_namespace(&mut self) -> Result<()> {
        let name = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
        let (here, holder) = (name("self"), self.holder.id().to_string());
        let deadline = Instant::now() + Duration::from_secs(5);
        while name(&holder).is_none() || name(&holder) == here {
            if self.holder.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("no network namespace can be made");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// The beginning of a command that runs on the far side.
    pub(crate) fn enter(&self) -> Vec<String> {
        vec![
            "nsenter".to_owned(),
            format!("--net=/proc/{}/ns/net", self.holder.id()),
            "--".to_owned(),
        ]
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Packets that were lost so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Where there is no device yet, there is none to take away; the far one goes with its namespace.
        run("ip", &["link", "delete", &self.near]).unwrap_or_default();
        self.holder.kill().unwrap_or_default();
        drop(self.holder.wait());
    }
}

fn run(command: &str, arguments: &[&str]) -> Result<()> {
    let done = Command::new(command).args(arguments).output();
    let done = done.with_context(|| format!("{command} can't be run"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        bail!("{command} {}: {said}", arguments.join(" "));
    }
    Ok(())
}

/// What the kernel calls `struct ifreq`, as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// A TUN device; it goes with this file.
fn device(name: &str) -> Result<File> {
    const TUNSETIFF: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<std::ffi::c_int>(b'T', 202);
    const IFF_TUN: u16 = 0x0001;
    const IFF_NO_PI: u16 = 0x1000;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("/dev/net/tun can't be opened")?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TUN | IFF_NO_PI,
        rest: [0; 22],
    };
    let length = name.len().min(15);
    request.name[..length].copy_from_slice(&name.as_bytes()[..length]);
    #[allow(unsafe_code, reason = "the kernel has no other way to make a TUN device")]
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `InterfaceRequest` is in layout and size (40 bytes), and
    // which outlives the call. The descriptor is that of /dev/net/tun.
    unsafe {
        let set = rustix::ioctl::Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request);
        rustix::ioctl::ioctl(&file, set).with_context(|| format!("the device {name} can't be made"))?;
    }
    Ok(file)
}

/// Carries packets one way, by two threads: their sleeps are finer than a runtime's, which count in milliseconds. They end
/// when their device is gone.
fn carry(mut from: File, mut to: File, weather: watch::Receiver<Weather>, dropped: Arc<AtomicU64>, seed: u64) {
    let (send, receive) = std::sync::mpsc::sync_channel::<(Instant, Vec<u8>)>(QUEUE);
    std::thread::spawn(move || {
        while let Ok((due, packet)) = receive.recv() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // A device that is not up takes none, and nobody promised a packet's arrival.
            to.write(&packet).unwrap_or_default();
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; LARGEST];
        let mut dice = Dice::new(seed);
        while let Ok(length) = from.read(&mut buffer) {
            let now = *weather.borrow();
            let packet = (Instant::now() + now.delay, buffer[..length].to_vec());
            if dice.lost(now) {
                dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            match send.try_send(packet) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => drop(dropped.fetch_add(1, Ordering::Relaxed)),
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_lost_as_often_as_said_and_the_same_ones_each_time() {
        let weather = Weather {
            delay: Duration::ZERO,
            lost_per_mille: 10,
        };
        let lost = |seed| {
            let mut dice = Dice::new(seed);
            (0..100_000).filter(|_| dice.lost(weather)).collect::<Vec<_>>()
        };
        assert!((800..1_200).contains(&lost(7).len()), "{}", lost(7).len());
        assert_eq!(lost(7), lost(7));
        assert_ne!(lost(7), lost(8));
    }
}
