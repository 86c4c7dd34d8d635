//! WASI preview 1 as steps: each call either is done or says what it waits for.
