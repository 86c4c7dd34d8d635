//! What a process is: traits, images, bindings, pages.
