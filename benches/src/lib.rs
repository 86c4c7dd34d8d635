//! What the benches have in common: [`measure`] figures, [`table`] for their form, and [`peers`] to compare with.

pub mod measure;
pub mod peers;
pub mod table;
