//! Published root file systems: compressed tar streams become entries.
