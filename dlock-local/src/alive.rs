//! The sign of life of a process: a file that it keeps locked.

use dlock_core::{Error, ErrorKind, Result};
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// This process's sign of life: a file in `<lock file>-alive`, locked for as long as any descriptor of it is open.
#[derive(Debug)]
pub(crate) struct Alive {
    folder: PathBuf,
    file: File,
    origin: Origin,
    origin_text: String,
}

/// Which process wrote an entry, as the entry has it: boot, time namespace, and the name and inode of its sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    boot: String,
    time: String,
    file: String,
    inode: u64,
}

/// What the sign of life says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It lives, or nothing is known against it: its TTL counts.
    Counts,
    /// It is dead.
    Dead,
    /// Its clock is another than ours.
    ElsewhereInTime,
}

impl Origin {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let mut next = || parts.next().map(str::to_owned);
        let origin = Self { boot: next()?, time: next()?, file: next()?, inode: next()?.parse().ok()? };
        // Never lets an entry name a file outside of the folder.
        Uuid::try_parse(&origin.file).ok().map(|_| origin)
    }
}

impl Alive {
    /// Gives a sign of life, and clears away those of dead processes that no entry names (`is_named`).
    pub(crate) fn begin(lock_file: &Path, is_named: impl Fn(&str) -> Result<bool>) -> Result<Self> {
        let mut folder = lock_file.as_os_str().to_owned();
        folder.push("-alive");
        let folder = PathBuf::from(folder);
        let failed = |error: io::Error| {
            let message =
                format!("no sign of life can be given in {}; allow this user to write there", folder.display());
            Error::new(ErrorKind::Unauthorized, message).with_source(error)
        };
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        clear(&folder, is_named)?;
        let (name, file) = make(&folder).map_err(failed)?;
        let origin = Origin {
            boot: read_line("/proc/sys/kernel/random/boot_id"),
            time: std::fs::read_link("/proc/self/ns/time")
                .map_or("-".into(), |link| link.to_string_lossy().into_owned()),
            file: name,
            inode: file.metadata().map_err(failed)?.ino(),
        };
        let origin_text = format!("{} {} {} {}", origin.boot, origin.time, origin.file, origin.inode);
        Ok(Self { folder, file, origin, origin_text })
    }

    /// What stands in this process's entries.
    pub(crate) fn origin(&self) -> &str {
        &self.origin_text
    }

    /// Another descriptor of the same lock: it stands until the last is closed.
    pub(crate) fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// What is known of the process that wrote an entry.
    pub(crate) fn life_of(&self, origin: Option<&str>) -> Life {
        if origin == Some(&self.origin_text) {
            return Life::Counts;
        }
        let Some(other) = origin.and_then(Origin::read) else { return Life::Counts };
        if other.boot != self.origin.boot {
            return Life::Dead;
        }
        if self.is_free(&other) {
            return Life::Dead;
        }
        if other.time == self.origin.time { Life::Counts } else { Life::ElsewhereInTime }
    }

    /// Whether nobody holds that file lock. A file that is gone or another one proves nothing.
    fn is_free(&self, other: &Origin) -> bool {
        let Ok(file) = File::open(self.folder.join(&other.file)) else { return false };
        file.metadata().is_ok_and(|found| found.ino() == other.inode) && file.try_lock_shared().is_ok()
    }
}

fn read_line(path: &str) -> String {
    std::fs::read_to_string(path).map_or("-".into(), |text| text.trim().to_owned())
}

/// Makes and locks a file under a name that nobody looks at, and only then gives it its own: so no other process can take
/// it for a dead one's.
fn make(folder: &Path) -> io::Result<(String, File)> {
    loop {
        let name = Uuid::new_v4().simple().to_string();
        let unborn = folder.join(format!("new-{name}"));
        let file = File::create_new(&unborn)?;
        let locked = match file.try_lock() {
            Ok(()) => std::fs::rename(&unborn, folder.join(&name)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::NotFound.into()),
            Err(TryLockError::Error(error)) => Err(error),
        };
        match locked {
            Ok(()) => return Ok((name, file)),
            // Another process cleared it away before it was locked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes what dead processes left and no entry names.
fn clear(folder: &Path, is_named: impl Fn(&str) -> Result<bool>) -> Result<()> {
    let Ok(files) = std::fs::read_dir(folder) else { return Ok(()) };
    for found in files.flatten() {
        let Ok(file) = File::open(found.path()) else { continue };
        if file.try_lock().is_ok() && !is_named(&found.file_name().to_string_lossy())? {
            // Locked by us, and its process is dead: nobody will name it any more.
            let _ = std::fs::remove_file(found.path());
        }
    }
    Ok(())
}
