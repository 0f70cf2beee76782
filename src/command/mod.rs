//! The command line: grammar, verbs, and what they print.
