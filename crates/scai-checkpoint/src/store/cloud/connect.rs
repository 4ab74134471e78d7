//! The store that a URL names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::RetryConfig;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use url::Url;

use super::Remote;
use super::failed::failed;
use crate::error::{Error, Result};

/// Seconds for a request with all of its repetitions, if `timeout` does not say otherwise.
const TIMEOUT: u64 = 60;
/// Seconds until a connection is there, if `connect_timeout` does not say otherwise.
const CONNECT: u64 = 5;

/// What a URL leads to.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) remote: Arc<dyn Remote>,
    /// Where the entries are.
    pub(super) prefix: Path,
    /// The store compares what arrives with a checksum that is sent with it.
    pub(super) checks: bool,
}

/// Connects to the store that `url` names, as [`Location`](crate::store::Location) writes it. Nothing is sent
/// yet.
///
/// # Errors
/// [`Error::Invalid`] for a URL or an option that is not understood.
pub(super) fn connect(url: &str, options: &BTreeMap<String, String>) -> Result<Connected> {
    let invalid = |what: String| Error::invalid(format!("`{url}`: {what}"));
    let parsed = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
    let bucket = parsed.host_str().filter(|host| !host.is_empty());
    if bucket.is_none() {
        return Err(invalid("the name of a bucket or container must follow `://`".to_owned()));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(invalid(
            "`?` and `#` cannot be part of the name; write `%3F` or `%23`".to_owned(),
        ));
    }
    let prefix = Path::from_url_path(parsed.path()).map_err(|error| invalid(error.to_string()))?;
    let seconds = match options.get("timeout") {
        None => TIMEOUT,
        Some(text) => text.parse().ok().filter(|&seconds| seconds > 0).ok_or_else(|| {
            invalid(format!("`timeout` must be a number of seconds above 0, got `{text}`"))
        })?,
    };
    let mut options = options.clone();
    options.insert("timeout".to_owned(), format!("{seconds} seconds"));
    let connect = options.entry("connect_timeout".to_owned());
    connect.or_insert_with(|| format!("{} seconds", seconds.min(CONNECT)));
    let retry =
        RetryConfig { retry_timeout: Duration::from_secs(seconds), ..RetryConfig::default() };
    let unknown = |name: &str| invalid(format!("`{name}` is not an option of this store"));
    let refused = |error| failed("connect to", url, error);
    // The builders of the three have the same methods and no trait in common.
    macro_rules! configured {
        ($builder:ty, $key:ty) => {{
            let mut builder = <$builder>::from_env().with_url(url).with_retry(retry);
            for (name, value) in &options {
                let key: $key = name.parse().map_err(|_| unknown(name))?;
                builder = builder.with_config(key, value);
            }
            builder
        }};
    }
    let (remote, checks): (Arc<dyn Remote>, bool) = match parsed.scheme() {
        "s3" => {
            let mut builder = configured!(AmazonS3Builder, AmazonS3ConfigKey);
            let endpoint = builder
                .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
                .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
            if endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
                builder = builder.with_allow_http(true);
            }
            let chosen = builder.get_config_value(&AmazonS3ConfigKey::Checksum).is_some();
            // Of a store that calls itself S3 it is not known whether it compares them.
            let checks = chosen || endpoint.is_none();
            if !chosen && endpoint.is_none() {
                builder = builder.with_checksum_algorithm(Checksum::CRC64NVME);
            }
            (Arc::new(builder.build().map_err(refused)?), checks)
        }
        "gs" => {
            let builder = configured!(GoogleCloudStorageBuilder, GoogleConfigKey);
            (Arc::new(builder.build().map_err(refused)?), false)
        }
        _ => {
            let builder = configured!(MicrosoftAzureBuilder, AzureConfigKey);
            (Arc::new(builder.build().map_err(refused)?), false)
        }
    };
    Ok(Connected { remote, prefix, checks })
}
