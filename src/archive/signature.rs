//! The OpenPGP signature of an `InRelease` file (RFC 9580, 7: cleartext signatures).
//!
//! [`verify`] gives back the text that was signed, and nothing around it. One good
//! signature of a known key is enough: archives sign with old and new keys at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgp::composed::CleartextSignedMessage;
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::Timestamp;

use super::keyring::{Keyring, SigningKey};

/// How far this machine's clock may be behind the signer's.
pub(super) const CLOCK_TOLERANCE: Duration = Duration::from_secs(60 * 60);

/// Why a text's signature does not count.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignatureError {
    /// The text is not what was signed.
    #[error("the signature by key {key} does not fit the text: it was changed or damaged")]
    Bad {
        /// The key's id.
        key: String,
    },
    /// The key's time is over.
    #[error("the signing key {key} expired {}", super::release::date(*.expired))]
    ExpiredKey {
        /// The key's id.
        key: String,
        /// When, in seconds since 1970.
        expired: u64,
    },
    /// The signature's own time is over.
    #[error("the signature by key {key} expired {}", super::release::date(*.expired))]
    ExpiredSignature {
        /// The key's id.
        key: String,
        /// When, in seconds since 1970.
        expired: u64,
    },
    /// The framing of text and signature is broken.
    #[error("the signed text is malformed: {reason}")]
    Malformed {
        /// What the parser says.
        reason: String,
    },
    /// There is no signature.
    #[error("it is not signed")]
    Missing,
    /// The signature is from the future.
    #[error("the signature by key {key} was made {}, which is in the future", super::release::date(*.made))]
    NotYetValid {
        /// The key's id.
        key: String,
        /// When, in seconds since 1970.
        made: u64,
    },
    /// No key that is compiled in made a signature.
    #[error("it is signed only by unknown keys: {}", keys.join(", "))]
    UnknownKey {
        /// The keys' ids.
        keys: Vec<String>,
    },
    /// The key may not sign, or the signature's algorithm is not trustworthy.
    #[error("the signature by key {key} does not count: {reason}")]
    Unusable {
        /// The key's id.
        key: String,
        /// Why not.
        reason: &'static str,
    },
}

impl SignatureError {
    /// Which of several failures tells most.
    fn weight(&self) -> u8 {
        match self {
            Self::Bad { .. } => 6,
            Self::ExpiredKey { .. } => 5,
            Self::ExpiredSignature { .. } => 4,
            Self::NotYetValid { .. } => 3,
            Self::Unusable { .. } => 2,
            Self::UnknownKey { .. } => 1,
            Self::Malformed { .. } | Self::Missing => 0,
        }
    }
}

/// The signed text of `message`, its lines ended by a line feed.
///
/// # Errors
/// Where no signature counts at the time `now`.
pub fn verify(
    message: &[u8],
    keyring: &Keyring,
    now: SystemTime,
) -> Result<String, SignatureError> {
    let malformed =
        |reason: &dyn ToString| SignatureError::Malformed { reason: reason.to_string() };
    let text = std::str::from_utf8(message).map_err(|error| malformed(&error))?;
    if !text.starts_with("-----BEGIN PGP SIGNED MESSAGE-----") {
        return Err(SignatureError::Missing);
    }
    let (message, _) =
        CleartextSignedMessage::from_string(text).map_err(|error| malformed(&error))?;
    let signed = message.signed_text();
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let mut failure = SignatureError::Missing;
    let mut unknown = Vec::new();
    for signature in message.signatures() {
        let key = issuer_id(signature);
        let result = match keyring.issuer(signature) {
            Some(issuer) => check(signature, &issuer, &key, signed.as_bytes(), now),
            None => {
                unknown.push(key);
                Err(SignatureError::UnknownKey { keys: unknown.clone() })
            }
        };
        match result {
            Ok(()) => return Ok(signed.replace("\r\n", "\n")),
            Err(error) if error.weight() >= failure.weight() => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

fn check(
    signature: &Signature,
    issuer: &SigningKey<'_>,
    key: &str,
    text: &[u8],
    now: u64,
) -> Result<(), SignatureError> {
    let key = || key.to_owned();
    let unusable = |reason| SignatureError::Unusable { key: key(), reason };
    if !matches!(signature.typ(), Some(SignatureType::Text | SignatureType::Binary)) {
        return Err(unusable("it is not a signature of a text"));
    }
    let strong = [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];
    if !signature.hash_alg().is_some_and(|algorithm| strong.contains(&algorithm)) {
        return Err(unusable("its hash algorithm is too weak"));
    }
    if !issuer.made(signature, text) {
        return Err(SignatureError::Bad { key: key() });
    }
    if !issuer.may_sign() {
        return Err(unusable("the key is revoked or not one for signing"));
    }
    if let Some(expired) = issuer.expires().filter(|expires| *expires <= now) {
        return Err(SignatureError::ExpiredKey { key: key(), expired });
    }
    let made = signature.created().map(Timestamp::as_secs).map(u64::from);
    let made = made.ok_or_else(|| unusable("it has no time"))?;
    if made > now.saturating_add(CLOCK_TOLERANCE.as_secs()) {
        return Err(SignatureError::NotYetValid { key: key(), made });
    }
    let lifetime = signature.signature_expiration_time().map_or(0, |lifetime| lifetime.as_secs());
    let expired = made + u64::from(lifetime);
    if lifetime > 0 && expired <= now {
        return Err(SignatureError::ExpiredSignature { key: key(), expired });
    }
    Ok(())
}

fn issuer_id(signature: &Signature) -> String {
    let fingerprint = signature.issuer_fingerprint().first().map(ToString::to_string);
    let id = || signature.issuer_key_id().first().map(ToString::to_string);
    fingerprint.or_else(id).map_or_else(|| "of no name".to_owned(), |id| id.to_uppercase())
}
