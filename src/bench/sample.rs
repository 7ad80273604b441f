//! What one round found out: named numbers, the unit last in the name.

/// Deliveries that arrived, per second from the first publish call on.
pub const RATE: &str = "deliveries_per_second";
/// Processor time of the server for ten thousand deliveries.
pub const CPU: &str = "server_cpu_seconds_per_10000";
/// Processor time of ten thousand bare requests in the same round.
pub const RAW_CPU: &str = "raw_cpu_seconds_per_10000";
/// The one divided by the other.
pub const RATIO: &str = "ratio_to_raw";
/// From the publish call to its acknowledgement.
pub const ACK_P50: &str = "ack_p50_ms";
/// The same for all but the slowest hundredth.
pub const ACK_P99: &str = "ack_p99_ms";
/// From the publish call to the arrival of the request.
pub const DELIVERY_P50: &str = "delivery_p50_ms";
/// The same for all but the slowest hundredth.
pub const DELIVERY_P99: &str = "delivery_p99_ms";
/// Most memory that the server ever had.
pub const PEAK: &str = "peak_memory_bytes";
/// Bytes that the server handed to the disk.
pub const WRITTEN: &str = "written_bytes_per_delivery";

/// The columns of the table and their titles.
pub const COLUMNS: [(&str, &str); 10] = [
    (RATE, "deliveries/s"),
    (CPU, "CPU-s/10k"),
    (RAW_CPU, "raw CPU-s/10k"),
    (RATIO, "ratio to raw"),
    (ACK_P50, "ack p50"),
    (ACK_P99, "ack p99"),
    (DELIVERY_P50, "delivery p50"),
    (DELIVERY_P99, "delivery p99"),
    (PEAK, "peak memory"),
    (WRITTEN, "written/delivery"),
];

/// The numbers of one round, in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    numbers: Vec<(&'static str, f64)>,
    complaint: Option<String>,
}

impl Sample {
    /// Adds a number, or replaces it.
    pub fn set(&mut self, name: &'static str, value: f64) {
        match self.numbers.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.numbers.push((name, value)),
        }
    }

    /// A number by its name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.numbers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Every name.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.numbers.iter().map(|(name, _)| *name)
    }

    /// Says that the run fails by this round, although its numbers are worth telling.
    pub fn complain(&mut self, why: String) {
        self.complaint = Some(why);
    }

    /// Why the run fails by this round.
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }
}
