//! What of a program is called, with which arguments, and what is refused.
