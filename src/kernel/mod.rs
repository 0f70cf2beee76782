//! The one kernel all distros share: fetched, prepared, kept.
