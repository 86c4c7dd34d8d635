//! Random modules that a mobile program may be. Also a part of the fuzz targets.

use arbitrary::Unstructured;

/// Loop rounds and calls that all calls of one module may take together.
const FUEL: u32 = 3_000;

/// What modules may use; `some(n)` says yes but once in `n` times.
pub(crate) fn config(mut some: impl FnMut(u64) -> bool) -> wasm_smith::Config {
    wasm_smith::Config {
        allow_start_export: true,
        bulk_memory_enabled: true,
        custom_page_sizes_enabled: false,
        disallow_traps: some(2),
        exceptions_enabled: false,
        export_everything: true,
        gc_enabled: false,
        max_imports: if some(2) { 10 } else { 0 },
        max_funcs: 12,
        max_instructions: if some(3) { 120 } else { 1_000 },
        max_memories: if some(2) { 1 } else { 3 },
        max_memory32_bytes: 3 << 16,
        max_memory64_bytes: 3 << 16,
        max_table_elements: 200,
        max_tables: 3,
        max_tags: 0,
        memory64_enabled: true,
        memory_max_size_required: true,
        min_funcs: 2,
        multi_value_enabled: true,
        reference_types_enabled: true,
        relaxed_simd_enabled: true,
        simd_enabled: some(3),
        table_max_size_required: true,
        tail_call_enabled: true,
        threads_enabled: false,
        ..wasm_smith::Config::default()
    }
}

/// A module made of `bytes` that ends, if they are enough for one.
pub(crate) fn module(config: wasm_smith::Config, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut module = wasm_smith::Module::new(config, &mut Unstructured::new(bytes)).ok()?;
    module.ensure_termination(FUEL).ok()?;
    Some(module.to_bytes())
}
