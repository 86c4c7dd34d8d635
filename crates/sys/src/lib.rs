//! Everything unsafe about the operating system, as safe types.
