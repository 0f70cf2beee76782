//! POSIX access control lists: the text of archives as the attribute that Linux keeps.
//!
//! The attribute is `posix_acl_xattr_header` of Linux's `include/uapi/linux/
//! posix_acl_xattr.h`: a version and one eight-byte record per entry, all little-endian.

const VERSION: u32 = 2;
const UNDEFINED_ID: u32 = u32::MAX;

const USER_OBJECT: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJECT: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The attribute's value for a list in text form (`user::rwx,group:100:r--,…`, entries
/// separated by commas or newlines; a fourth field is the numeric id).
///
/// `None` where the text is malformed or names a user that it gives no number for.
pub(super) fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries = text
        .split([',', '\n'])
        .map(|entry| entry.split('#').next().unwrap_or_default().trim())
        .filter(|entry| !entry.is_empty())
        .map(entry)
        .collect::<Option<Vec<_>>>()?;
    if entries.is_empty() {
        return None;
    }
    // The kernel wants them by tag, then by id.
    entries.sort_unstable();
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Some(value)
}

/// The text of an attribute's value, users and groups by number, entries separated by
/// commas, which every archiver reads. `None` where the value is malformed.
pub(super) fn to_text(value: &[u8]) -> Option<String> {
    let (entries, rest) = value.strip_prefix(&VERSION.to_le_bytes())?.as_chunks::<8>();
    if !rest.is_empty() || entries.is_empty() {
        return None;
    }
    let texts = entries.iter().map(|entry| {
        let [tag, tag_high, permissions, permissions_high, id @ ..] = *entry;
        let id = u32::from_le_bytes(id);
        let name = match u16::from_le_bytes([tag, tag_high]) {
            USER_OBJECT => "user:".to_owned(),
            USER => format!("user:{id}"),
            GROUP_OBJECT => "group:".to_owned(),
            GROUP => format!("group:{id}"),
            MASK => "mask:".to_owned(),
            OTHER => "other:".to_owned(),
            _ => return None,
        };
        let permissions = u16::from_le_bytes([permissions, permissions_high]);
        if permissions > 7 {
            return None;
        }
        let letter = |bit, letter| if permissions & bit != 0 { letter } else { '-' };
        Some(format!("{name}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x')))
    });
    Some(texts.collect::<Option<Vec<_>>>()?.join(","))
}

fn entry(text: &str) -> Option<(u16, u32, u16)> {
    let mut fields = text.split(':').map(str::trim);
    let tag = fields.next()?;
    let name = fields.next()?;
    let (name, permissions) = match (tag, fields.next()) {
        (_, Some(permissions)) => (name, permissions),
        // Solaris' short form has no name for the mask and others.
        ("mask" | "m" | "other" | "o", None) => ("", name),
        _ => return None,
    };
    let named = !name.is_empty();
    let id = match (named, fields.next()) {
        (false, _) => UNDEFINED_ID,
        (true, Some(id)) if !id.is_empty() => id.parse().ok()?,
        (true, _) => name.parse().ok()?,
    };
    let tag = match (tag, named) {
        ("user" | "u", false) => USER_OBJECT,
        ("user" | "u", true) => USER,
        ("group" | "g", false) => GROUP_OBJECT,
        ("group" | "g", true) => GROUP,
        ("mask" | "m", false) => MASK,
        ("other" | "o", false) => OTHER,
        _ => return None,
    };
    let permissions = permissions.chars().try_fold(0, |bits, permission| match permission {
        'r' => Some(bits | 4),
        'w' => Some(bits | 2),
        'x' => Some(bits | 1),
        '-' => Some(bits),
        _ => None,
    })?;
    Some((tag, id, permissions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_sorted_and_numbered() {
        let text =
            b"user::rwx\nother::r--\nuser:7:r-x\ngroup:staff:-w-:50\nmask::rwx\ngroup::---\n";
        let value = from_text(text).unwrap();
        let mut expected = vec![2, 0, 0, 0];
        for (tag, permissions, id) in [
            (1, 7, u32::MAX),
            (2, 5, 7),
            (4, 0, u32::MAX),
            (8, 2, 50),
            (16, 7, u32::MAX),
            (32, 4, u32::MAX),
        ] {
            expected.extend([tag, 0, permissions, 0]);
            expected.extend(id.to_le_bytes());
        }
        assert_eq!(value, expected);
    }

    #[test]
    fn a_value_and_its_text_are_the_same_list() {
        let text = "user::rwx,user:7:r-x,group::---,group:50:-w-,mask::rwx,other::r--";
        let value = from_text(text.as_bytes()).unwrap();
        assert_eq!(to_text(&value).unwrap(), text);
        for length in 0..value.len() {
            let is_whole = length > 4 && length % 8 == 4;
            assert_eq!(to_text(&value[..length]).is_some(), is_whole, "{length}");
        }
    }

    #[test]
    fn an_unknown_name_or_nonsense_is_no_list() {
        for text in ["group:adm:r-x", "user", "", "user::rwz", "mask:3:rwx", "x::rwx"] {
            assert_eq!(from_text(text.as_bytes()), None, "{text}");
        }
        assert!(from_text(b"mask:rwx").is_some());
    }
}
