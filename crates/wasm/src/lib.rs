//! The wasm kind: instrument, run, capture and resume WebAssembly.
