//! TLS to the server.

use dlock_core::{Error, ErrorKind, Result, StoreUrl};
use redis::{Client, ConnectionInfo};

pub(crate) const SCHEMES: &[&str] = if cfg!(feature = "tls") { &["redis", "rediss"] } else { &["redis"] };
pub(crate) const PARAMETERS: &[&str] = if cfg!(feature = "tls") { &["ca", "cert", "key"] } else { &[] };

/// The client of a `rediss://` URL.
#[cfg(feature = "tls")]
pub(crate) fn client(url: &StoreUrl, server: ConnectionInfo) -> Result<Client> {
    use redis::{ClientTlsConfig, TlsCertificates};
    let wrong = |message: String| Error::new(ErrorKind::InvalidConfig, message);
    let read = |name: &str| {
        let Some(file) = url.param(name) else { return Ok(None) };
        let unreadable =
            |error| wrong(format!("the file of the parameter {name}, {file}, can't be read")).with_source(error);
        std::fs::read(file).map(Some).map_err(unreadable)
    };
    let client_tls = match (read("cert")?, read("key")?) {
        (None, None) => None,
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        _ => return Err(wrong("the parameters cert and key of a rediss URL go together".to_owned())),
    };
    let root_cert = read("ca")?;
    if root_cert.as_ref().is_some_and(|text| !String::from_utf8_lossy(text).contains("BEGIN CERTIFICATE")) {
        return Err(wrong("the file of the parameter ca has no certificate in PEM".to_owned()));
    }
    // Where the program has chosen none, and more than one is linked, rustls would panic.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::build_with_tls(server, TlsCertificates { client_tls, root_cert })
        .map_err(|error| wrong("the certificates in the rediss URL can't be used".to_owned()).with_source(error))
}

#[cfg(not(feature = "tls"))]
pub(crate) fn client(_: &StoreUrl, _: ConnectionInfo) -> Result<Client> {
    Err(Error::new(
        ErrorKind::Unsupported,
        "rediss URLs need the cargo feature \"tls\" of dlock-redis, which is off; build with it",
    ))
}
