//! The keys that archives are signed with, compiled in.
//!
//! They come from Debian's packages `debian-archive-keyring` (`debian-archive-keyring.gpg`)
//! and `ubuntu-keyring` (`ubuntu-archive-keyring.gpg`), without third-party signatures.

use pgp::composed::{Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Timestamp};
use serde::{Deserialize, Serialize};

use super::ArchiveError;

const DEBIAN: &[u8] = include_bytes!("keyrings/debian.gpg");
const UBUNTU: &[u8] = include_bytes!("keyrings/ubuntu.gpg");

/// Whose archive it is, and so whose keys count.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Debian.
    Debian,
    /// Ubuntu.
    Ubuntu,
}

/// Keys whose signature counts.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
}

/// One key that may have made a signature.
pub(super) enum SigningKey<'a> {
    Primary(&'a SignedPublicKey),
    Subkey(&'a SignedPublicKey, &'a SignedPublicSubKey),
}

impl Keyring {
    /// The compiled-in keys of a family.
    ///
    /// # Errors
    /// Never in a sound build: where the compiled-in bytes are not a keyring.
    pub fn of(family: Family) -> Result<Self, ArchiveError> {
        Self::read(match family {
            Family::Debian => DEBIAN,
            Family::Ubuntu => UBUNTU,
        })
    }

    /// Keys from the binary form that `gpg --export` writes.
    ///
    /// # Errors
    /// Where the bytes are not a keyring or hold no key.
    pub fn read(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let error = |reason: String| ArchiveError::Keyring { reason };
        let keys = SignedPublicKey::from_bytes_many(bytes)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|source| error(source.to_string()))?;
        if keys.is_empty() {
            return Err(error("it holds no key".to_owned()));
        }
        Ok(Self { keys })
    }

    /// The key that a signature says it is made with.
    pub(super) fn issuer(&self, signature: &Signature) -> Option<SigningKey<'_>> {
        let fingerprints = signature.issuer_fingerprint();
        let ids = signature.issuer_key_id();
        let matches = |key: &dyn KeyDetails| {
            if fingerprints.is_empty() {
                ids.contains(&&key.legacy_key_id())
            } else {
                fingerprints.contains(&&key.fingerprint())
            }
        };
        self.keys.iter().find_map(|key| {
            if matches(&key.primary_key) {
                return Some(SigningKey::Primary(key));
            }
            let subkey = key.public_subkeys.iter().find(|subkey| matches(&subkey.key))?;
            Some(SigningKey::Subkey(key, subkey))
        })
    }
}

impl SigningKey<'_> {
    /// Whether the key itself says that it may sign, and is neither revoked nor unbound.
    pub(super) fn may_sign(&self) -> bool {
        match self {
            Self::Primary(key) => {
                primary_is_valid(key)
                    && self_signatures(key).any(|signature| signature.key_flags().sign())
            }
            Self::Subkey(key, subkey) => {
                primary_is_valid(key)
                    && !subkey
                        .signatures
                        .iter()
                        .any(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation))
                    && subkey.verify_bindings(&key.primary_key).is_ok()
                    && subkey.signatures.iter().any(|signature| signature.key_flags().sign())
            }
        }
    }

    /// When it stops being valid, in seconds since 1970; the earlier of primary key and
    /// subkey.
    pub(super) fn expires(&self) -> Option<u64> {
        match self {
            Self::Primary(key) => primary_expiration(key),
            Self::Subkey(key, subkey) => {
                let own = expiration(subkey.key.created_at(), subkey.signatures.iter());
                [own, primary_expiration(key)].into_iter().flatten().min()
            }
        }
    }

    /// Whether it made this signature of `text`.
    pub(super) fn made(&self, signature: &Signature, text: &[u8]) -> bool {
        match self {
            Self::Primary(key) => signature.verify(&key.primary_key, text).is_ok(),
            Self::Subkey(_, subkey) => signature.verify(&subkey.key, text).is_ok(),
        }
    }
}

fn primary_is_valid(key: &SignedPublicKey) -> bool {
    key.details.revocation_signatures.is_empty()
        && key.details.verify_bindings(&key.primary_key).is_ok()
}

fn self_signatures(key: &SignedPublicKey) -> impl Iterator<Item = &Signature> {
    let users = key.details.users.iter().flat_map(|user| user.signatures.iter());
    key.details
        .direct_signatures
        .iter()
        .chain(users)
        .filter(|signature| signature.typ() != Some(SignatureType::CertRevocation))
}

fn primary_expiration(key: &SignedPublicKey) -> Option<u64> {
    expiration(key.primary_key.created_at(), self_signatures(key))
}

/// The newest signature on a key says how long it lives (RFC 9580, 5.2.3.10).
fn expiration<'a>(
    created: Timestamp,
    signatures: impl Iterator<Item = &'a Signature>,
) -> Option<u64> {
    let newest = signatures.max_by_key(|signature| signature.created().map(Timestamp::as_secs))?;
    let seconds = newest.key_expiration_time()?.as_secs();
    (seconds > 0).then(|| u64::from(created.as_secs()) + u64::from(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_keys_are_the_known_ones() {
        let fingerprints = |family| -> Vec<String> {
            let keyring = Keyring::of(family).unwrap();
            keyring.keys.iter().map(|key| key.fingerprint().to_string().to_uppercase()).collect()
        };
        let debian = fingerprints(Family::Debian);
        for expected in [
            // Archive and stable keys of bookworm and trixie, as ftp-master publishes them.
            "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8",
            "04B54C3CDCA79751B16BC6B5225629DF75B188BD",
            "4D64FEC119C2029067D6E791F8D2585B8783D481",
            "41587F7DB8C774BCCF131416762F67A0B2C39DE4",
        ] {
            assert!(debian.iter().any(|known| known == expected), "{expected}: {debian:?}");
        }
        assert!(
            fingerprints(Family::Ubuntu)
                .contains(&"F6ECB3762474EDA9D21B7022871920D1991BC93C".to_owned())
        );
    }

    #[test]
    fn the_compiled_in_keys_may_sign() {
        // The keys that sign today's releases; older ones may have signatures on themselves
        // that do not count any more.
        for (family, name) in [
            (Family::Debian, "(12/bookworm)"),
            (Family::Debian, "(13/trixie)"),
            (Family::Ubuntu, "Archive Automatic Signing Key (2018)"),
        ] {
            let keyring = Keyring::of(family).unwrap();
            let keys: Vec<_> = keyring
                .keys
                .iter()
                .filter(|key| {
                    let mut users = key.details.users.iter();
                    users.any(|user| String::from_utf8_lossy(user.id.id()).contains(name))
                })
                .collect();
            assert!(!keys.is_empty(), "{name}");
            for key in keys {
                let primary = SigningKey::Primary(key);
                let subkeys =
                    key.public_subkeys.iter().map(|subkey| SigningKey::Subkey(key, subkey));
                for key in std::iter::once(primary).chain(subkeys) {
                    assert!(key.may_sign(), "{name}");
                    assert!(key.expires().is_none_or(|expires| expires > 1_800_000_000), "{name}");
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_keyring_are_refused() {
        assert!(Keyring::read(b"").is_err());
        assert!(Keyring::read(b"nonsense").is_err());
        assert!(Keyring::read(&DEBIAN[..1000]).is_err());
    }
}
