//! TLS to the server.

use dlock_core::{Error, ErrorKind, Result, StoreUrl};
use redis::{Client, ConnectionInfo};

pub(crate) const SCHEMES: &[&str] = if cfg!(feature = "tls") { &["redis", "rediss"] } else { &["redis"] };
pub(crate) const PARAMETERS: &[&str] = if cfg!(feature = "tls") { &["ca", "cert", "key"] } else { &[] };

/// The client of a `rediss://` URL.
#[cfg(feature = "tls")]
pub(crate) fn client(url: &StoreUrl, server: ConnectionInfo) -> Result<Client> {
    use redis::{ClientTlsConfig, TlsCertificates};
    let wrong = |message: &'static str| Error::new(ErrorKind::InvalidConfig, message);
    let client_tls = match (url.file("cert")?, url.file("key")?) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some(ClientTlsConfig { client_cert: cert.into(), client_key: key.into() }),
        _ => return Err(wrong("the parameters cert and key of a rediss URL go together")),
    };
    let root_cert = url.file("ca")?;
    if root_cert.as_ref().is_some_and(|text| !text.contains("BEGIN CERTIFICATE")) {
        return Err(wrong("the file of the parameter ca has no certificate in PEM"));
    }
    // Where the program has chosen none, and more than one is linked, rustls would panic.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::build_with_tls(server, TlsCertificates { client_tls, root_cert: root_cert.map(String::into_bytes) })
        .map_err(|error| wrong("the certificates in the rediss URL can't be used").with_source(error))
}

#[cfg(not(feature = "tls"))]
pub(crate) fn client(_: &StoreUrl, _: ConnectionInfo) -> Result<Client> {
    Err(Error::new(
        ErrorKind::Unsupported,
        "rediss URLs need the cargo feature \"tls\" of dlock-redis, which is off; build with it",
    ))
}
