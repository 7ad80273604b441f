//! What a process has used, as Linux tells it under `/proc`.

use std::{collections::HashMap, fs, iter::Sum, ops::Add};

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

    /// The use of a process and all its children, those included that have ended.
    pub fn of_family(pid: u32) -> Result<Self> {
        let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat"));
        let mut family = Self::of(pid)?;
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        // Of children that have ended: fields 16 and 17.
        let text = stat(pid)?;
        let ended = after_name(&text).skip(13).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
        family.cpu_seconds += ended.sum::<u64>() as f64 / per_second;
        for entry in fs::read_dir("/proc")? {
            let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // One may end while it is looked at.
            let Ok(text) = stat(child) else { continue };
            if after_name(&text).nth(1) == Some(&pid.to_string())
                && let Ok(usage) = Self::of(child)
            {
                family = family + usage;
            }
        }
        Ok(family)
    }

    fn parse(stat: &str, status: &str, io: &str, ticks_per_second: u64) -> Option<Self> {
        // The name of the program is in parentheses and may have any character;
        // user and system time are the 14th and 15th field, 12th and 13th after it.
        let mut times = after_name(stat).skip(11).map(str::parse::<u64>);
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

/// The fields of a line of `stat` after the name of the program, which may have blanks.
fn after_name(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace()
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            memory_bytes: self.memory_bytes + other.memory_bytes,
            peak_memory_bytes: self.peak_memory_bytes + other.peak_memory_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
        }
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(several: I) -> Self {
        several.fold(Self::default(), Add::add)
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
