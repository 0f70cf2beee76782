//! The guest's init: disks, distros in namespaces, sessions.
