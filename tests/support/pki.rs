//! Certificate authorities, and what they issue to clients and servers: made anew by each test.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that can't continue must fail")]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use pem::Pem;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData,
};
use rsa::Generate;
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::der::Encode;
use rsa::pkcs8::{EncodePrivateKey, PrivateKeyInfoRef};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use sec1::{EcParameters, EcPrivateKey};

/// A certificate authority.
pub(crate) struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
        Authority { certificate: params.self_signed(&key).unwrap(), issuer: Issuer::new(params, key) }
    }

    /// One whose certificate this one has signed.
    pub(crate) fn intermediate(&self, name: &str) -> Authority {
        let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A client's certificate in PEM form.
    pub(crate) fn client(
        &self,
        key: &impl PublicKeyData,
        change: impl FnOnce(&mut CertificateParams),
    ) -> String {
        let mut params = CertificateParams::new(["client".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    /// The settings of a server for `localhost` that demands certificates which `clients` has issued.
    pub(crate) fn server(
        &self,
        clients: &Authority,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(clients.certificate.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let config = config.with_client_cert_verifier(verifier.build().unwrap());
        Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap())
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A key of each algorithm and in each form that clients have, named and in PEM form.
pub(crate) fn keys() -> Vec<(&'static str, KeyPair, String)> {
    static RSA: LazyLock<rsa::PrivateKey> = LazyLock::new(rsa::PrivateKey::generate);
    let rsa = &*RSA;
    let pkcs8 = rsa.to_pkcs8_der().unwrap();
    let rsa_pair = || KeyPair::try_from(pkcs8.as_bytes()).unwrap();
    let [p256, p384, ed25519] = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519]
        .map(|algorithm| KeyPair::generate_for(algorithm).unwrap());
    let [p256_sec1, p384_sec1] = [&p256, &p384].map(sec1);
    let again = |pair: &KeyPair| KeyPair::try_from(pair.serialized_der()).unwrap();
    // As `openssl ecparam -genkey` writes it: the name of the curve in a section of its own, here that of P-256.
    let curve = Pem::new("EC PARAMETERS", b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07".as_slice());
    // As OpenSSL writes it: without the public key, which ring adds and OpenSSL 3.0 can't read.
    let mut info = PrivateKeyInfoRef::try_from(ed25519.serialized_der()).unwrap();
    info.public_key = None;
    let ed25519_pkcs8 = pem("PRIVATE KEY", &info.to_der().unwrap());
    vec![
        ("RSA in PKCS#8", rsa_pair(), pem("PRIVATE KEY", pkcs8.as_bytes())),
        ("RSA in PKCS#1", rsa_pair(), pem("RSA PRIVATE KEY", rsa.to_pkcs1_der().unwrap().as_bytes())),
        ("P-256 in PKCS#8", again(&p256), p256.serialize_pem()),
        ("P-256 in SEC1", p256, pem::encode(&curve) + &p256_sec1),
        ("P-384 in PKCS#8", again(&p384), p384.serialize_pem()),
        ("P-384 in SEC1", p384, p384_sec1),
        ("Ed25519 in PKCS#8", again(&ed25519), ed25519_pkcs8),
    ]
}

/// The SEC1 form of a key. PKCS#8 contains it without the curve, which RFC 5915 (section 3) demands.
pub(crate) fn sec1(key: &KeyPair) -> String {
    let info = PrivateKeyInfoRef::try_from(key.serialized_der()).unwrap();
    let mut key = EcPrivateKey::try_from(info.private_key.as_bytes()).unwrap();
    key.parameters = Some(EcParameters::NamedCurve(info.algorithm.parameters_oid().unwrap()));
    pem("EC PRIVATE KEY", &key.to_der().unwrap())
}

pub(crate) fn pem(label: &str, bytes: &[u8]) -> String {
    pem::encode(&Pem::new(label, bytes))
}

/// A new file with this content.
pub(crate) fn file(content: impl AsRef<[u8]>) -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("pki-{}-{number}.pem", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, content).unwrap();
    path
}
