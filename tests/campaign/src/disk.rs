//! A filesystem of its own for one server's store, on a loop device: it can be full, slow, and fail, it can lose power, and a
//! bit of it can flip.
//!
//! The device's file has at each moment what the filesystem has written to its disk. A copy of it, taken while the
//! filesystem is in use, is what a disk holds when the power fails: what was synced, and what the kernel wrote by itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::device::{Device, Health};
use crate::world::until;

/// Larger than any round stores.
const BYTES: u64 = 768 << 20;

/// A mounted filesystem; unmounted on drop.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    /// Between the image and the loop device, where it has to be slow or to fail.
    device: Option<Device>,
    mount: PathBuf,
    /// How often the power failed.
    losses: u32,
}

impl Disk {
    /// A new, empty one in a folder.
    ///
    /// # Errors
    /// Where the machine does not let this process make or mount one.
    pub(crate) fn make(folder: &Path, name: &str, needs_device: bool) -> Result<Self> {
        let (image, mount) = (folder.join(format!("{name}-0.img")), folder.join(name));
        std::fs::create_dir_all(&mount)?;
        File::create(&image)?.set_len(BYTES)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let disk = Self {
            device: needs_device.then(|| Device::over(&image)).transpose()?,
            image,
            mount,
            losses: 0,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Whether this machine has them.
    pub(crate) fn are_possible(with_devices: bool) -> bool {
        tempfile::tempdir().is_ok_and(|folder| Self::make(folder.path(), "probe", with_devices).is_ok())
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    fn mount(&self) -> Result<()> {
        let below = self.device.as_ref().map_or(&*self.image, Device::path);
        run(Command::new("mount").args(["-o", "loop"]).arg(below).arg(&self.mount))
    }

    fn device(&self) -> Result<&Device> {
        self.device.as_ref().context("it has no device of its own")
    }

    /// Each write takes its time, or no longer; says whether one has.
    pub(crate) async fn slow_down(&self, slow: bool) -> Result<bool> {
        self.device()?.set(if slow { Health::Slow } else { Health::Well });
        Ok(slow && self.is_hurt().await?)
    }

    /// Nothing can be written or read; says whether something could not.
    pub(crate) async fn fail(&self) -> Result<bool> {
        self.device()?.set(Health::Failing);
        self.is_hurt().await
    }

    /// Whether a request came to harm, for which the kernel is asked to write what it has.
    async fn is_hurt(&self) -> Result<bool> {
        let (device, mount) = (self.device()?, self.mount.clone());
        let before = device.hurt();
        tokio::task::spawn_blocking(move || {
            // It may well fail.
            drop(File::open(mount).map(rustix::fs::syncfs));
        });
        let is_hurt = until("the disk is in trouble", Duration::from_secs(2), async || {
            device.hurt() > before
        });
        Ok(is_hurt.await.is_ok())
    }

    /// Works again, with what it holds. Nobody uses it any more.
    pub(crate) fn mend(&self) -> Result<()> {
        self.device()?.set(Health::Well);
        run(Command::new("umount").arg(&self.mount))?;
        // As a machine does that starts: 1 says that it mended something.
        let mended = Command::new("e2fsck").args(["-f", "-y"]).arg(&self.image).output();
        let mended = mended.context("can't run e2fsck")?;
        if !matches!(mended.status.code(), Some(0 | 1)) {
            bail!("e2fsck: {}", String::from_utf8_lossy(&mended.stdout).trim());
        }
        self.mount()
    }

    /// Goes back to what the disk holds now, without what the filesystem has not written yet. Nobody uses it any more.
    pub(crate) fn lose_power(&mut self) -> Result<()> {
        self.losses += 1;
        let name = self
            .mount
            .file_name()
            .context("it has a name")?
            .to_string_lossy()
            .into_owned();
        let next = self.image.with_file_name(format!("{name}-{}.img", self.losses));
        run(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&next))?;
        run(Command::new("umount").arg(&self.mount))?;
        std::fs::remove_file(&self.image)?;
        if self.device.take().is_some() {
            self.device = Some(Device::over(&next)?);
        }
        self.image = next;
        self.mount()
    }

    /// Takes all of its room; says whether none is left.
    pub(crate) fn fill(&self) -> Result<bool> {
        let free = self.free()?;
        let filler = self.filler();
        run(Command::new("fallocate")
            .arg("-l")
            .arg(free.max(1).to_string())
            .arg(filler))?;
        Ok(self.free()? < 64 << 10)
    }

    /// Gives it back.
    pub(crate) fn free_up(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }

    fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.mount)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Flips one bit in the middle of the largest block of a stream. The server must not run.
    pub(crate) fn flip_bit(&self, stream: &str) -> Result<PathBuf> {
        let mut blocks = Vec::new();
        blocks_below(&self.mount, stream, &mut blocks)?;
        let (bytes, block) = blocks.into_iter().max().context("the stream has no block")?;
        let mut content = std::fs::read(&block)?;
        let middle = usize::try_from(bytes / 2)?;
        *content.get_mut(middle).context("the block is empty")? ^= 1;
        std::fs::write(&block, content)?;
        Ok(block)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may not be mounted; nothing else can be done about it here.
        drop(run(Command::new("umount").arg("-l").arg(&self.mount)));
    }
}

fn blocks_below(folder: &Path, stream: &str, found: &mut Vec<(u64, PathBuf)>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let (path, kind) = entry.and_then(|e| Ok((e.path(), e.file_type()?)))?;
        if kind.is_dir() {
            blocks_below(&path, stream, found)?;
        } else if path.extension().is_some_and(|e| e == "blk") && path.iter().any(|part| part == stream) {
            found.push((std::fs::metadata(&path)?.len(), path));
        }
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("can't run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn write(path: &Path) -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(&[7; 65_536])?;
        file.sync_all()
    }

    /// It asks for root, loop devices and FUSE. Where those are not to be had, the campaign says so, and goes without.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_that_failed_has_what_was_synced_before() -> Result<()> {
        if !Disk::are_possible(true) {
            println!("this machine has no disks of that kind");
            return Ok(());
        }
        let folder = tempfile::tempdir()?;
        let disk = Disk::make(folder.path(), "s0", true)?;
        let (before, after) = (disk.path().join("before"), disk.path().join("after"));
        write(&before)?;
        assert!(disk.slow_down(true).await?, "a write was slow");
        assert!(!disk.slow_down(false).await?);
        assert!(disk.fail().await?, "a write failed");
        assert!(write(&after).is_err(), "nothing is synced to a disk that fails");
        disk.mend()?;
        assert_eq!(std::fs::read(&before)?, [7; 65_536]);
        write(&after).context("it takes writes again")
    }
}
