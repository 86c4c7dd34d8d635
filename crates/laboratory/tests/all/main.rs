//! What is measured has the shape that it should have; how large it is depends on the machine and is no test's business.
//!
//! - `tlp`: programs of known parallelism

mod tlp;
