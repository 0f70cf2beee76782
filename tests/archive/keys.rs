//! OpenPGP keys and signatures, good ones and others.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedKeyDetails,
    SignedPublicKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{
    KeyFlags, SecretKey, SignatureConfig, SignatureType, Subpacket, SubpacketData, UserId,
};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, Password, SignedUser, Tag, Timestamp};
use wslr::archive::keyring::Keyring;

/// The time that the tests play at.
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// In seconds since 1970: 2026-01-01 00:00 UTC.
pub const NOW: u64 = 1_767_225_600;

/// A key pair made a year before [`NOW`].
pub struct Key {
    secret: SecretKey,
    public: SignedPublicKey,
}

/// How a text is signed.
pub struct Signing {
    pub made: u64,
    pub lifetime: Option<u32>,
    pub hash: HashAlgorithm,
}

impl Default for Signing {
    fn default() -> Self {
        Self { made: NOW - 60, lifetime: None, hash: HashAlgorithm::Sha256 }
    }
}

impl Key {
    pub fn new() -> Self {
        Self::with(KeyType::Ed25519Legacy, None, true)
    }

    /// A key that signs with any hash.
    pub fn rsa() -> Self {
        Self::with(KeyType::Rsa(2048), None, true)
    }

    /// A key that expires so many seconds after it was made.
    pub fn expiring(lifetime: u32) -> Self {
        Self::with(KeyType::Ed25519Legacy, Some(lifetime), true)
    }

    /// A key that may certify other keys and not sign anything.
    pub fn not_for_signing() -> Self {
        Self::with(KeyType::Ed25519Legacy, None, false)
    }

    fn with(kind: KeyType, lifetime: Option<u32>, may_sign: bool) -> Self {
        let made = timestamp(NOW - 365 * 86_400);
        let mut parameters = SecretKeyParamsBuilder::default();
        parameters
            .key_type(kind)
            .can_certify(true)
            .created_at(made)
            .primary_user_id("archive".to_owned());
        let secret =
            parameters.build().unwrap().generate(rand::thread_rng()).unwrap().primary_key.clone();
        let mut flags = KeyFlags::default();
        flags.set_certify(true);
        flags.set_sign(may_sign);
        let mut subpackets = vec![
            SubpacketData::SignatureCreationTime(made),
            SubpacketData::IssuerFingerprint(secret.fingerprint()),
            SubpacketData::KeyFlags(flags),
        ];
        if let Some(lifetime) = lifetime {
            let lifetime = pgp::types::Duration::from_secs(lifetime);
            subpackets.push(SubpacketData::KeyExpirationTime(lifetime));
        }
        let config = config(&secret, SignatureType::CertGeneric, subpackets, HashAlgorithm::Sha256);
        let id = UserId::from_str(Default::default(), "archive").unwrap();
        let public = secret.public_key().clone();
        let signature = config
            .sign_certification(&secret, &public, &Password::empty(), Tag::UserId, &id)
            .unwrap();
        let user = SignedUser::new(id, vec![signature]);
        let details = SignedKeyDetails::new(vec![], vec![], vec![user], vec![]);
        Self { public: SignedPublicKey::new(public, details, vec![]), secret }
    }

    /// The keyring of just this key, read from its binary form.
    pub fn keyring(&self) -> Keyring {
        Keyring::read(&self.public.to_bytes().unwrap()).unwrap()
    }

    pub fn sign_with(&self, text: &str, signing: &Signing) -> String {
        let mut subpackets = vec![
            SubpacketData::SignatureCreationTime(timestamp(signing.made)),
            SubpacketData::IssuerFingerprint(self.secret.fingerprint()),
        ];
        if let Some(lifetime) = signing.lifetime {
            let lifetime = pgp::types::Duration::from_secs(lifetime);
            subpackets.push(SubpacketData::SignatureExpirationTime(lifetime));
        }
        let config = config(&self.secret, SignatureType::Text, subpackets, signing.hash);
        CleartextSignedMessage::new(text, config, &self.secret, &Password::empty())
            .unwrap()
            .to_armored_string(ArmorOptions::default())
            .unwrap()
    }
}

fn config(
    secret: &SecretKey,
    kind: SignatureType,
    subpackets: Vec<SubpacketData>,
    hash: HashAlgorithm,
) -> SignatureConfig {
    let mut config = SignatureConfig::from_key(rand::thread_rng(), secret, kind).unwrap();
    config.hash_alg = hash;
    config.hashed_subpackets =
        subpackets.into_iter().map(|data| Subpacket::regular(data).unwrap()).collect();
    config
}

fn timestamp(seconds: u64) -> Timestamp {
    Timestamp::from_secs(u32::try_from(seconds).unwrap())
}
