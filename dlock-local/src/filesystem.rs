//! Which file systems can't keep locks of one machine.

use dlock_core::{Error, ErrorKind, Result};
use std::path::Path;

/// File systems that other machines change too, or whose file locks and shared memory are not those of this kernel. The
/// numbers are those of `statfs(2)` and of the kernel's `magic.h`.
const REFUSED: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x517b, "SMB"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x2003_0528, "OrangeFS"),
    (0x1983_0326, "BeeGFS"),
    (0xaad7_aaea, "PanFS"),
    (0xa501_fcf5, "VxFS"),
    (0xbeef_dead, "StorNext"),
    (0x6163_6673, "ACFS"),
    (0x7c7c_6673, "a Parallels shared folder"),
    (0x786f_4256, "a VirtualBox shared folder"),
    (0xbacb_acbc, "a VMware shared folder"),
];

/// The name of a file system that is refused.
fn refused(kind: u32) -> Option<&'static str> {
    REFUSED.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name)
}

/// Refuses a folder on a network file system.
pub(crate) fn check(folder: &Path) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Ok(found) = rustix::fs::statfs(folder) {
        // The type is 32 bits wide whatever the field's width; some of its values have the sign bit.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
        let kind = found.f_type as u32;
        if let Some(name) = refused(kind) {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!(
                    "{} is on {name}, which does not keep file locks for one machine alone; take a folder on a local disk, \
                     or a server such as Redis",
                    folder.display()
                ),
            ));
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = folder;
    Ok(())
}

/// Refuses a file that is mounted by itself: SQLite keeps what the processes share beside the file, by its path, and the
/// other side of the mount has another folder.
pub(crate) fn check_file(path: &Path) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
        let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty());
        if found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) {
            let message = format!("{} is mounted by itself; mount the folder in which it is", path.display());
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_refused_and_local_ones_are_not() {
        assert_eq!(refused(0x6969), Some("NFS"));
        // ext4, tmpfs, xfs, btrfs, overlayfs, zfs
        for local in [0xef53, 0x0102_1994, 0x5846_5342, 0x9123_683e, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(refused(local), None);
        }
        check(&std::env::temp_dir()).unwrap();
    }
}
