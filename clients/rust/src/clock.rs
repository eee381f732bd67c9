//! The clock of leases.

/// Milliseconds since the machine started, also those it slept (`CLOCK_BOOTTIME`): a lease must run out while
/// its holder is suspended (R3).
#[must_use]
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}
