//! The binary tables that `modprobe` looks names up in.
//!
//! A radix tree with the children's file offsets in its nodes, all numbers big-endian, as
//! kmod's `libkmod-index` defines it (its text tables are only for other tools). A node's
//! offset carries in its top bits which of its three parts follow: a prefix, children for
//! a range of bytes, values with priorities.

use std::collections::BTreeMap;

const MAGIC: u32 = 0xb007_f457;
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;

/// A table being made.
#[derive(Debug, Default)]
pub struct Index {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    prefix: Vec<u8>,
    children: BTreeMap<u8, Node>,
    values: Vec<(u32, String)>,
}

impl Index {
    /// Adds a value; those of one key are found in ascending order of priority.
    ///
    /// A key that is not ASCII cannot be stored and is left out: nothing in the kernel
    /// has one.
    pub fn insert(&mut self, key: &str, value: &str, priority: u32) {
        if key.is_ascii() && !key.contains('\0') {
            self.root.insert(key.as_bytes(), value, priority);
        }
    }

    /// The table as a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [MAGIC, VERSION, 0] {
            file.extend_from_slice(&word.to_be_bytes());
        }
        let root = self.root.write(&mut file);
        if let Some(place) = file.get_mut(8..12) {
            place.copy_from_slice(&root.to_be_bytes());
        }
        file
    }
}

impl Node {
    fn insert(&mut self, key: &[u8], value: &str, priority: u32) {
        let common = self.prefix.iter().zip(key).take_while(|(one, other)| one == other).count();
        if let Some(byte) = self.prefix.get(common).copied() {
            let lower = Self {
                prefix: self.prefix.split_off(common + 1),
                children: std::mem::take(&mut self.children),
                values: std::mem::take(&mut self.values),
            };
            self.prefix.truncate(common);
            self.children.insert(byte, lower);
        }
        match key.split_at(common).1.split_first() {
            None => {
                let at = self.values.partition_point(|(other, _)| *other < priority);
                if !self.values.iter().any(|(_, other)| other == value) {
                    self.values.insert(at, (priority, value.to_owned()));
                }
            }
            Some((byte, rest)) => match self.children.get_mut(byte) {
                Some(child) => child.insert(rest, value, priority),
                None => {
                    let values = vec![(priority, value.to_owned())];
                    let child = Self { prefix: rest.to_vec(), values, ..Self::default() };
                    self.children.insert(*byte, child);
                }
            },
        }
    }

    /// Writes the children, then the node; tells where, with its flags.
    fn write(&self, file: &mut Vec<u8>) -> u32 {
        let written: BTreeMap<u8, u32> =
            self.children.iter().map(|(byte, child)| (*byte, child.write(file))).collect();
        // The tables of a kernel are some hundred KiB; the format ends at 256 MiB.
        let mut place = file.len() as u32;
        if !self.prefix.is_empty() {
            place |= HAS_PREFIX;
            file.extend_from_slice(&self.prefix);
            file.push(0);
        }
        if let (Some((first, _)), Some((last, _))) =
            (written.first_key_value(), written.last_key_value())
        {
            place |= HAS_CHILDREN;
            file.extend_from_slice(&[*first, *last]);
            for byte in *first..=*last {
                let child = written.get(&byte).copied().unwrap_or(0);
                file.extend_from_slice(&child.to_be_bytes());
            }
        }
        if !self.values.is_empty() {
            place |= HAS_VALUES;
            file.extend_from_slice(&(self.values.len() as u32).to_be_bytes());
            for (priority, value) in &self.values {
                file.extend_from_slice(&priority.to_be_bytes());
                file.extend_from_slice(value.as_bytes());
                file.push(0);
            }
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn word(file: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(file[at..at + 4].try_into().unwrap())
    }

    fn text(file: &[u8], at: &mut usize) -> String {
        let end = file[*at..].iter().position(|byte| *byte == 0).unwrap() + *at;
        let text = String::from_utf8(file[*at..end].to_vec()).unwrap();
        *at = end + 1;
        text
    }

    /// Looks a key up the way kmod's reader walks the file.
    fn find(file: &[u8], key: &str) -> Vec<String> {
        let (mut place, mut key) = (word(file, 8), key.as_bytes());
        loop {
            let mut at = (place & 0x0fff_ffff) as usize;
            if place & HAS_PREFIX != 0 {
                let prefix = text(file, &mut at);
                match key.strip_prefix(prefix.as_bytes()) {
                    Some(rest) => key = rest,
                    None => return Vec::new(),
                }
            }
            let mut next = 0;
            if place & HAS_CHILDREN != 0 {
                let (first, last) = (file[at], file[at + 1]);
                if let Some(byte) = key.first().filter(|byte| (first..=last).contains(byte)) {
                    next = word(file, at + 2 + usize::from(byte - first) * 4);
                }
                at += 2 + (usize::from(last - first) + 1) * 4;
            }
            if key.is_empty() {
                if place & HAS_VALUES == 0 {
                    return Vec::new();
                }
                let count = word(file, at);
                at += 4;
                return (0..count)
                    .map(|_| {
                        at += 4;
                        text(file, &mut at)
                    })
                    .collect();
            }
            if next == 0 {
                return Vec::new();
            }
            (place, key) = (next, &key[1..]);
        }
    }

    #[test]
    fn values_come_in_order_of_priority() {
        let mut index = Index::default();
        index.insert("alias", "late", 7);
        index.insert("alias", "early", 3);
        index.insert("ali", "short", 1);
        let file = index.to_bytes();
        assert_eq!(file[..8], [0xb0, 0x07, 0xf4, 0x57, 0, 2, 0, 1]);
        assert_eq!(find(&file, "alias"), ["early", "late"]);
        assert_eq!(find(&file, "ali"), ["short"]);
        assert_eq!(find(&file, "al"), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn whatever_is_inserted_is_found(
            entries in prop::collection::btree_map("[a-c*:_]{0,6}", "[a-z]{1,4}", 0..40),
            other in "[a-c*:_]{0,7}",
        ) {
            let entries: BTreeMap<String, String> = entries;
            let mut index = Index::default();
            for (key, value) in &entries {
                index.insert(key, value, 0);
            }
            let file = index.to_bytes();
            for (key, value) in &entries {
                prop_assert_eq!(find(&file, key), vec![value.clone()]);
            }
            prop_assert_eq!(!find(&file, &other).is_empty(), entries.contains_key(&other));
        }
    }
}
