//! Writes the seeds of `recovery` into a directory: `cargo run --example seeds DIR`. `cargo fuzz cmin` keeps what counts.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "corpus/recovery".into()));
    std::fs::create_dir_all(&dir)?;
    for (number, seed) in logd_log_fuzz::seeds().into_iter().enumerate() {
        std::fs::write(dir.join(format!("seed-{number:05}")), seed)?;
    }
    Ok(())
}
