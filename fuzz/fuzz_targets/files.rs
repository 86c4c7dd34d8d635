//! Any bytes as requests to the file server: however they are cut up, the answers are the same and well-formed.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use sterna_gateway::files::{Site, fuzz};

static SITE: OnceLock<Arc<Site>> = OnceLock::new();

fuzz_target!(|input: (Vec<u8>, &[u8])| {
    let (cuts, bytes) = input;
    let folder = std::env::temp_dir().join(format!("sterna-fuzz-files-{}", std::process::id()));
    fuzz::check(SITE.get_or_init(|| fuzz::site(&folder)), bytes, &cuts);
});
