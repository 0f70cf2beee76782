//! Files from https, http and file urls: resumed, hashed, with progress.
