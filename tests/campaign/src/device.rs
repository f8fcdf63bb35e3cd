//! What is below a disk: a file that this process serves to the kernel, so that it can be slow, and can fail.
//!
//! Whatever is written to it goes at once into the image, which is what a disk holds.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

/// How long a slow device takes for each write.
const SLOW: Duration = Duration::from_millis(50);
/// The kernel may remember what the device is.
const FOR_EVER: Duration = Duration::from_secs(3_600);

/// How a device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Health {
    Well,
    Slow,
    /// EIO for everything.
    Failing,
}

/// A served file; gone on drop.
#[derive(Debug)]
pub(crate) struct Device {
    path: PathBuf,
    shared: Arc<Shared>,
    /// It ends what is served when it is dropped.
    _session: BackgroundSession,
}

#[derive(Debug)]
struct Shared {
    health: AtomicU8,
    /// Requests that were slow or failed.
    hurt: AtomicU64,
}

impl Device {
    /// One with what an image holds.
    ///
    /// # Errors
    /// Where the machine does not let this process serve one.
    pub(crate) fn over(image: &Path) -> Result<Self> {
        let path = image.with_extension("device");
        // The kernel takes over a file that is there.
        File::create(&path)?;
        let file = File::options().read(true).write(true).open(image)?;
        let size = file.metadata()?.len();
        let shared = Arc::new(Shared {
            health: AtomicU8::new(Health::Well as u8),
            hurt: AtomicU64::new(0),
        });
        let served = Served {
            file,
            size,
            shared: Arc::clone(&shared),
        };
        let session = fuser::spawn_mount(served, &path, &Config::default());
        Ok(Self {
            _session: session.with_context(|| format!("can't serve {}", path.display()))?,
            path,
            shared,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on it answers so.
    pub(crate) fn set(&self, health: Health) {
        self.shared.health.store(health as u8, Ordering::SeqCst);
    }

    /// Requests that were slow or failed up to now.
    pub(crate) fn hurt(&self) -> u64 {
        self.shared.hurt.load(Ordering::SeqCst)
    }
}

/// The only file: it is the root of what is mounted.
#[derive(Debug)]
struct Served {
    file: File,
    size: u64,
    shared: Arc<Shared>,
}

impl Served {
    /// Takes its time, or fails.
    fn answer<T>(&self, is_write: bool, done: impl FnOnce() -> std::io::Result<T>) -> Result<T, Errno> {
        let health = self.shared.health.load(Ordering::SeqCst);
        let is_slow = health == Health::Slow as u8 && is_write;
        if is_slow || health == Health::Failing as u8 {
            self.shared.hurt.fetch_add(1, Ordering::SeqCst);
        }
        if health == Health::Failing as u8 {
            return Err(Errno::EIO);
        }
        if is_slow {
            std::thread::sleep(SLOW);
        }
        done().map_err(|_| Errno::EIO)
    }
}

impl Filesystem for Served {
    fn getattr(&self, _request: &Request, _file: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let attributes = FileAttr {
            ino: INodeNo::ROOT,
            size: self.size,
            blocks: self.size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&FOR_EVER, &attributes);
    }

    fn open(&self, _request: &Request, _file: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Nothing is remembered between the disk's own filesystem and the image.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        _file: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.size.saturating_sub(offset).min(u64::from(size));
        let mut read = vec![0; usize::try_from(left).unwrap_or(0)];
        match self.answer(false, || self.file.read_exact_at(&mut read, offset)) {
            Ok(()) => reply.data(&read),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _file: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _how: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.answer(true, || self.file.write_all_at(data, offset)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _request: &Request, _file: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _file: INodeNo, _handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        // What was written is in the image, and this machine's own power does not fail.
        match self.answer(true, || Ok(())) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }
}
