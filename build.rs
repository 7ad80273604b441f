//! Compiles `proto/` into Rust, without protoc.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files = Vec::new();
    for entry in fs::read_dir("proto/hookwire/v1")? {
        files.push(entry?.path());
    }
    files.sort();

    // The raw set keeps the `google.api.http` options that the REST edge reads;
    // one that went through prost-types would have lost them.
    let mut raw = protox::Compiler::new(["proto"])?;
    raw.include_imports(true).open_files(&files)?;
    fs::write(out.join("hookwire.binpb"), raw.encode_file_descriptor_set())?;

    let mut commented = protox::Compiler::new(["proto"])?;
    commented.include_imports(true).include_source_info(true).open_files(&files)?;
    tonic_prost_build::configure()
        .bytes(".hookwire.v1.Payload.data")
        .build_transport(false)
        .compile_fds(commented.file_descriptor_set())?;
    Ok(())
}
