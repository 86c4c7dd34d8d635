//! What the benches have in common: [`measure`] figures, and [`table`] for their form.

pub mod measure;
pub mod table;
