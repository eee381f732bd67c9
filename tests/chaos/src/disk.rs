//! A file system of its own that can be cut off: what was not synced is gone, as when the power fails
//! (`EXT4_IOC_SHUTDOWN` without a flush of its log). Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Of the image; it is sparse.
const IMAGE_BYTES: u64 = 1024 * 1024 * 1024;
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`. By perl: an ioctl is nothing safe Rust can say.
const CUT: &str = "open(my $d, '<', $ARGV[0]) or die; my $how = pack('L', 2); ioctl($d, 0x8004587d, $how) or die $!";

/// A loop-mounted ext4.
pub struct Disk {
    image: PathBuf,
    /// Where it is mounted.
    pub mounted: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

// === impl Disk ===

impl Disk {
    /// Why there can be none here; None when there can.
    #[must_use]
    pub fn unavailable() -> Option<&'static str> {
        let id = Command::new("id").arg("-u").output().expect("id is there");
        (id.stdout != b"0\n").then_some("it takes root to mount a file system")
    }

    /// Makes and mounts one in `dir`.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let (image, mounted) = (dir.join("disk.ext4"), dir.join("disk"));
        let file = std::fs::File::create(&image).expect("a file");
        file.set_len(IMAGE_BYTES).expect("sparse");
        std::fs::create_dir(&mounted).expect("a directory");
        assert!(run("mkfs.ext4", &["-q", "-F", text(&image)]), "mkfs.ext4");
        let disk = Self { image, mounted };
        disk.mount();
        disk
    }

    fn mount(&self) {
        let mounted = run("mount", &["-o", "loop", text(&self.image), text(&self.mounted)]);
        assert!(mounted, "mount");
    }

    /// Cuts it off: from now on nothing is written.
    ///
    /// # Panics
    /// The kernel does not do it.
    pub fn cut(&self) {
        assert!(run("perl", &["-e", CUT, text(&self.mounted)]), "the shutdown ioctl");
    }

    /// Mounts it again as it was when it was cut off. Nobody may use it.
    ///
    /// # Panics
    /// Somebody uses it, or it is broken.
    pub fn mount_again(&self) {
        assert!(run("umount", &[text(&self.mounted)]), "umount");
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mounted).status();
    }
}
