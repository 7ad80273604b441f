//! What a process has used, as Linux tells it under `/proc`.

use std::{collections::HashMap, fs};

use anyhow::{Context as _, Result};

/// Use of the machine by one process up to an instant.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time, its own and the kernel's for it.
    pub cpu_seconds: f64,
    /// Memory now.
    pub memory_bytes: u64,
    /// Most memory ever.
    pub peak_memory_bytes: u64,
    /// Bytes handed to the disk.
    pub written_bytes: u64,
}

impl Usage {
    /// The use of a process so far.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (stat, status, io) = (read("stat")?, read("status")?, read("io")?);
        let per_second = rustix::param::clock_ticks_per_second();
        Self::parse(&stat, &status, &io, per_second).context("/proc has another form than expected")
    }

    fn parse(stat: &str, status: &str, io: &str, ticks_per_second: u64) -> Option<Self> {
        // The name of the program is in parentheses and may have any character;
        // user and system time are the 14th and 15th field, 12th and 13th after it.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        let ticks = times.next()?.ok()? + times.next()?.ok()?;
        let (status, io) = (pairs(status), pairs(io));
        let kib = |key| status.get(key).map(|kib| kib * 1024);
        Some(Self {
            cpu_seconds: ticks as f64 / ticks_per_second as f64,
            memory_bytes: kib("VmRSS")?,
            peak_memory_bytes: kib("VmHWM")?,
            written_bytes: *io.get("write_bytes")?,
        })
    }
}

/// The lines `key: number` of a text.
fn pairs(text: &str) -> HashMap<&str, u64> {
    let pair = |line| {
        let (key, value) = str::split_once(line, ':')?;
        Some((key, value.split_whitespace().next()?.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "41 (a (b) c) S 1 41 41 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 9 0 100 1 2 3";
    const STATUS: &str = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t9\n";
    const IO: &str = "rchar: 1\nwchar: 2\nread_bytes: 3\nwrite_bytes: 4096\n";

    #[test]
    fn what_linux_tells_is_understood_whatever_the_program_is_called() {
        let usage = Usage::parse(STAT, STATUS, IO, 100).unwrap();
        let expected = Usage {
            cpu_seconds: 3.0,
            memory_bytes: 1 << 20,
            peak_memory_bytes: 2 << 20,
            written_bytes: 4096,
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn what_is_missing_is_not_taken_for_nothing() {
        assert_eq!(Usage::parse("41 (a) S 1", STATUS, IO, 100), None);
        assert_eq!(Usage::parse(STAT, "VmHWM: 2048 kB", IO, 100), None);
        assert_eq!(Usage::parse(STAT, STATUS, "", 100), None);
    }

    #[test]
    fn a_process_can_look_at_itself() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.peak_memory_bytes >= usage.memory_bytes && usage.memory_bytes > 0);
    }
}
