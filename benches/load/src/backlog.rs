//! A persistent session: messages gather while it is away, then it drains them. Memory and disk while it
//! is away, messages a second and order while it drains.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::report::{Figures, Report};
use crate::{BacklogOptions, process, wire};

const TOPIC: &str = "backlog/t";
const READ_BYTES: usize = 256 * 1024;

/// Bytes of all files below `dir`.
fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

async fn connect(options: &BacklogOptions, id: &str, clean: bool) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(options.target.addr).await?;
    socket.set_nodelay(true)?;
    let mut out = Vec::new();
    wire::connect(&mut out, id);
    if !clean {
        // Connect flags: fixed header 2, name 6, level 1.
        out[9] = 0;
    }
    socket.write_all(&out).await?;
    let mut connack = [0; 4];
    socket.read_exact(&mut connack).await?;
    ensure!(connack[0] == 0x20 && connack[3] == 0, "refused: {connack:?}");
    Ok(socket)
}

/// Publishes all with QoS 1; `window` unanswered.
async fn publish(options: &BacklogOptions) -> Result<()> {
    let mut socket = connect(options, "backlog-publisher", true).await?;
    let (mut sent, mut answered) = (0u64, 0u64);
    let mut payload = vec![0x5A; options.size as usize];
    let (mut out, mut rest) = (Vec::new(), Vec::new());
    let mut memory = vec![0; READ_BYTES];
    while answered < options.messages {
        out.clear();
        while sent < options.messages && sent - answered < options.window.into() {
            payload[..8].copy_from_slice(&sent.to_le_bytes());
            wire::publish_head(&mut out, TOPIC, 1, (sent % 65_535) as u16 + 1, payload.len());
            out.extend_from_slice(&payload);
            sent += 1;
        }
        socket.write_all(&out).await?;
        let n = socket.read(&mut memory).await?;
        ensure!(n > 0, "the broker closed the connection");
        rest.extend_from_slice(&memory[..n]);
        let whole = rest.len() / 4 * 4;
        for puback in rest[..whole].chunks(4) {
            ensure!(puback[0] == 0x40, "unexpected packet {puback:?}");
            answered += 1;
        }
        rest.drain(..whole);
    }
    Ok(())
}

/// Takes all that is owed, in order, and acknowledges it.
async fn drain(options: &BacklogOptions) -> Result<()> {
    let mut socket = connect(options, "backlog-session", false).await?;
    let mut expected = 0u64;
    let (mut out, mut rest) = (Vec::new(), Vec::new());
    let mut memory = vec![0; READ_BYTES];
    while expected < options.messages {
        let n = socket.read(&mut memory).await?;
        ensure!(n > 0, "the broker closed the connection");
        rest.extend_from_slice(&memory[..n]);
        out.clear();
        let mut at = 0;
        while let Some((header, len)) = wire::length(&rest[at..]) {
            let Some(packet) = rest.get(at..at + header + len) else { break };
            let body = &packet[header..];
            if packet[0] >> 4 != 3 || body.len() != 4 + TOPIC.len() + options.size as usize {
                bail!("unexpected packet {:#x}", packet[0]);
            }
            let id = [body[2 + TOPIC.len()], body[3 + TOPIC.len()]];
            let number = body[4 + TOPIC.len()..].first_chunk().map(|b| u64::from_le_bytes(*b));
            ensure!(number == Some(expected), "{number:?} where {expected} was due");
            expected += 1;
            wire::acknowledge(&mut out, 0x40, id);
            at += packet.len();
        }
        rest.drain(..at);
        socket.write_all(&out).await?;
    }
    // DISCONNECT, and wait until the broker has taken it.
    socket.write_all(&[0xE0, 0]).await?;
    let _ = socket.read(&mut memory).await?;
    Ok(())
}

/// Runs the workload and prints what it cost.
pub(crate) async fn run(options: BacklogOptions) -> Result<()> {
    let pids = options.target.pids.clone();
    let mut session = connect(&options, "backlog-session", false).await?;
    let mut out = Vec::new();
    wire::subscribe(&mut out, TOPIC, 1);
    session.write_all(&out).await?;
    let mut suback = [0; 5];
    session.read_exact(&mut suback).await?;
    drop(session);
    let rss = process::rss_anon_kib(&pids);
    let disk = options.data_dir.as_deref().map_or(0, disk_bytes);
    for (name, publishes) in [("publish", true), ("drain", false)] {
        let before = (process::cpu_us(&pids), process::own_cpu_us());
        let began = Instant::now();
        if publishes {
            publish(&options).await?
        } else {
            drain(&options).await?
        }
        let seconds = began.elapsed().as_secs_f64();
        let count = options.messages as f64;
        let report = Report {
            workload: format!("backlog {name} size {} window {}", options.size, options.window),
            figures: Figures {
                delivered: options.messages,
                lost: 0,
                repeated: 0,
                gaps: 0,
                seconds,
                messages_per_s: count / seconds,
                broker_cpu_us_per_message: (process::cpu_us(&pids) - before.0) / count,
                own_cpu_us_per_message: (process::own_cpu_us() - before.1) / count,
                broker_rss_anon_kib: process::rss_anon_kib(&pids).saturating_sub(rss),
            },
            latency: None,
        };
        report.write(options.target.json.as_deref())?;
        if let Some(dir) = &options.data_dir {
            let payload = options.messages * u64::from(options.size);
            let grew = disk_bytes(dir).saturating_sub(disk);
            println!(
                "  files grew by {grew} bytes = {:.3} of the payload",
                grew as f64 / payload as f64
            );
        }
    }
    Ok(())
}
