//! The project's own commands: test, ci, tidy, bench, guests, arm.

fn main() {}
