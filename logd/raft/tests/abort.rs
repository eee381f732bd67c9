//! What apply cannot go on from ends the process: the test starts itself as a child and looks how it ends.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fluxmq_commands::command::{Batch, Command};
use fluxmq_names::ShardId;
use logd_broker::{Applied, Broker};
use logd_log::io::MemoryIo;
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions};
use logd_raft::{CommandBatch, Group, GroupOptions, Observer};
use tokio::sync::oneshot;

/// Says what the child is to do.
const CHILD: &str = "LOGD_RAFT_CHILD";
const SIGABRT: i32 = 6;
/// The child's end when nothing ended it.
const SURVIVED: i32 = 17;

struct Panics(bool);

impl Observer for Panics {
    fn applied(&self, _: &Broker, _: u64, _: &Applied) {
        assert!(!self.0, "a fault injected into apply");
    }
}

/// Submits what a child was told to and waits; whoever comes back survived.
fn child(what: &str) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let io = Arc::new(MemoryIo::new(1 << 30));
        let disk = Disk::start(io, "/data", DiskConfig::default(), Arc::new(AbortOnFatal));
        let disk = disk.expect("a data directory");
        let (log, _) = disk.open_shard(0, OpenOptions::default()).expect("a shard");
        let observer = Box::new(Panics(what == "panic"));
        let group = Group::start(GroupOptions::alone(ShardId(0), 1), log, observer).await;
        let group = group.expect("the only voter leads");
        let mut body = Vec::new();
        Command::Tick.encode(&[], &mut body);
        if what == "unknown" {
            // An operation that no version knows.
            body[..2].copy_from_slice(&u16::MAX.to_le_bytes());
        }
        let ends = vec![body.len() as u32];
        let head = Batch {
            gateway_epoch: 0,
            stream: 0,
            first_sequence: 0,
            count: 1,
            crc: 0,
            confirmed_upto: 0,
        };
        let (tx, rx) = oneshot::channel();
        let reply = Box::new(move |result| drop(tx.send(result)));
        group.submit(CommandBatch { head, ends, body: body.into() }, reply);
        let _ = tokio::time::timeout(Duration::from_secs(20), rx).await;
        if what == "unknown" {
            // The core has ended; the group notices within a second.
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    });
    std::process::exit(SURVIVED)
}

fn ends_like(what: &str) -> (Option<i32>, Option<i32>) {
    let me = std::env::current_exe().expect("this test");
    let status = Process::new(me)
        .args(["--exact", "apply_ends_the_process_where_it_cannot_go_on"])
        .env(CHILD, what)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let status = status.expect("the child runs");
    (status.signal(), status.code())
}

#[test]
fn apply_ends_the_process_where_it_cannot_go_on() {
    if let Ok(what) = std::env::var(CHILD) {
        child(&what);
    }
    assert_eq!(ends_like("nothing"), (None, Some(SURVIVED)), "without a fault it survives");
    assert_eq!(ends_like("panic"), (Some(SIGABRT), None), "a panic in apply");
    assert_eq!(ends_like("unknown"), (Some(SIGABRT), None), "an entry nobody understands");
}
