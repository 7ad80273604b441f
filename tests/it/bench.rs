//! `hookwire bench` runs on its own and tells numbers.

use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

use crate::support::alone;

async fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookwire"));
    command.arg("bench").args(args).kill_on_drop(true).output().await.expect("the command runs")
}

fn median(scenario: &Value, name: &str) -> f64 {
    scenario[name]["median"].as_f64().unwrap_or_else(|| panic!("no {name} in {scenario:#}"))
}

#[tokio::test]
async fn a_bench_delivers_everything_and_tells_what_it_cost() {
    let _alone = alone().await;
    let output = bench(&["stream", "unary", "retry", "--events", "500", "--rounds", "1", "--json"]).await;
    let complaints = String::from_utf8_lossy(&output.stderr);
    // Whatever is lost or doubled would fail it.
    assert!(output.status.success(), "{complaints}");
    assert!(complaints.is_empty(), "{complaints}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let scenarios = told["scenarios"].as_array().expect("a list");
    let names: Vec<_> = scenarios.iter().filter_map(|scenario| scenario["name"].as_str()).collect();
    assert_eq!(names, ["stream", "unary", "retry"]);
    for scenario in scenarios {
        for name in [
            "deliveries_per_second",
            "server_cpu_seconds_per_10000",
            "raw_cpu_seconds_per_10000",
            "ratio_to_raw",
            "ack_p50_ms",
            "ack_p99_ms",
            "delivery_p50_ms",
            "delivery_p99_ms",
            "peak_memory_bytes",
            "written_bytes_per_delivery",
        ] {
            assert!(median(scenario, name) > 0.0, "{name} in {scenario:#}");
        }
        assert!(median(scenario, "ack_p50_ms") <= median(scenario, "ack_p99_ms"));
    }
}

#[tokio::test]
async fn what_cannot_be_measured_is_refused_in_one_sentence() {
    let output = bench(&["stream", "--store", "/nowhere/at/all"]).await;
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(complaint, "hookwire: --store /nowhere/at/all is not a directory\n");
    for refused in [["--payload", "31"], ["--rounds", "0"], ["--events", "0"], ["--store", ""]] {
        let output = bench(&refused).await;
        assert_eq!(output.status.code(), Some(2), "{refused:?}");
    }
}
