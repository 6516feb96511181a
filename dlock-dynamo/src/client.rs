//! The client of the service: credentials, region, HTTP.

use crate::config::Settings;
use crate::exchange::Corrected;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{
    BehaviorVersion, Credentials, Region, SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::{Builder, tls};
use dlock_core::{Error, ErrorKind, Result, StoreUrl};
use std::time::Duration;

/// How long making a connection may take at the most.
const CONNECT: Duration = Duration::from_secs(3);
/// The region of an endpoint of one's own, where none is given: it only goes into the signature.
const ANY_REGION: &str = "us-east-1";

/// A client that sends each request once: what is repeated, and under which rules, is decided by dlock alone. A request
/// that the client repeats by itself would fail against its own first success, and a release would look like a loss.
pub(crate) async fn client(url: &StoreUrl, settings: &Settings, time: &Corrected) -> Result<Client> {
    let http = http(settings);
    let (region, credentials) = identity(url, settings, &http).await?;
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT.min(settings.op_timeout)).build();
    let mut config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(credentials)
        .http_client(http)
        .time_source(time.clone())
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(timeouts);
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

/// TLS by rustls with ring; an endpoint without TLS is not made to wait for the system's certificates.
fn http(settings: &Settings) -> SharedHttpClient {
    match &settings.endpoint {
        Some(endpoint) if endpoint.starts_with("http://") => Builder::new().build_http(),
        _ => Builder::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring)).build_https(),
    }
}

/// Region and credentials: of the URL, of the environment, or with the feature `aws-config` of the standard chain.
async fn identity(
    url: &StoreUrl,
    settings: &Settings,
    http: &SharedHttpClient,
) -> Result<(String, SharedCredentialsProvider)> {
    let (mut region, mut credentials) = (settings.region.clone(), None);
    if let Some(key) = url.username() {
        let Some(secret) = url.password() else {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "the DynamoDB URL has an access key without its secret; write dynamodb://KEY:SECRET@table",
            ));
        };
        let given = Credentials::new(key, secret, None, None, "store URL");
        credentials = Some(SharedCredentialsProvider::new(given));
    }
    if region.is_none() || credentials.is_none() {
        let (found_region, found_credentials) = found(settings, http).await?;
        region = region.or(found_region);
        credentials = credentials.or(found_credentials);
    }
    if region.is_none() && settings.endpoint.is_some() {
        region = Some(ANY_REGION.to_owned());
    }
    let region = region.ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidConfig,
            "no region is known; add region=eu-central-1 to the URL, or set AWS_REGION",
        )
    })?;
    let credentials = credentials.ok_or_else(|| {
        Error::new(
            ErrorKind::Unauthorized,
            "there are no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or build with the feature \
             aws-config for profiles, SSO, containers and instances",
        )
    })?;
    Ok((region, credentials))
}

type Found = (Option<String>, Option<SharedCredentialsProvider>);

#[cfg(not(feature = "aws-config"))]
#[allow(clippy::unused_async, reason = "the other one awaits")]
async fn found(_: &Settings, _: &SharedHttpClient) -> Result<Found> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
    let pair = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
    let credentials =
        pair.map(|(key, secret)| Credentials::new(key, secret, variable("AWS_SESSION_TOKEN"), None, "environment"));
    Ok((region, credentials.map(SharedCredentialsProvider::new)))
}

#[cfg(feature = "aws-config")]
async fn found(settings: &Settings, http: &SharedHttpClient) -> Result<Found> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone());
    if let Some(region) = &settings.region {
        // Else the instance's own service is asked for it, which is slow where there is none.
        loader = loader.region(Region::new(region.clone()));
    }
    let clock = dlock_core::Clock::system();
    let loaded =
        clock.timeout_at(clock.now() + settings.op_timeout, Box::pin(loader.load())).await.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "the AWS configuration was not found in time; add region= to the URL")
        })?;
    Ok((loaded.region().map(Region::to_string), loaded.credentials_provider()))
}
