//! Validation of the configuration and of the environment variables. Each error says what to change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use crate::client::config::api_key::{self, Origin};
use crate::client::config::{Config, ConfigBuilder, KEY_VARIABLE, URL_VARIABLE};
use crate::error::{Error, Result};
use crate::http::options::{self, ClientCertFiles, Endpoint, PemFile, headers};
use crate::http::request::RequestHeaders;
use crate::policy::backoff::MAX_TIME;
use crate::wire::base_url::{BaseUrl, unquoted};
use crate::wire::secrets::Secrets;

/// The environment variable that names a CA file, as OpenSSL reads it.
const CA_VARIABLE: &str = "SSL_CERT_FILE";

/// The header that carries the key.
pub(crate) const AUTHORIZATION: &str = "authorization";

/// Headers that only the client sets: the protocol depends on them, or they have a setting of their own.
const OWN_HEADERS: [&str; 9] = [
    "host",
    "expect",
    "user-agent",
    "content-type",
    "content-length",
    "transfer-encoding",
    "connection",
    "accept-encoding",
    "idempotency-key",
];

impl ConfigBuilder {
    /// Checks all settings.
    ///
    /// # Errors
    /// [`Error::Config`] that names the setting and says what to change.
    pub fn build(mut self) -> Result<Config> {
        let base = address(&self.base_url, self.allow_plain_http)?;
        let http = &self.http;
        time_in_range("connect_timeout", http.connect_timeout, "10 s is usual")?;
        time_in_range("timeout", http.timeout, "60 s is usual")?;
        if let Some(deadline) = self.deadline {
            time_in_range("deadline", deadline, "leave it out")?;
        }
        if http.max_response_bytes == 0 {
            return Err(Error::config("max_response_bytes", "must be more than 0"));
        }
        self.retry.check()?;
        self.adaptive.check()?;
        headers(&[("user-agent".to_owned(), http.user_agent.clone())]).map_err(concerning("user_agent"))?;
        let authorization = self.authorization(&base)?;
        let mut secrets = Secrets::default();
        let query = secrets.add_query(&base.query, fastrand::alphanumeric);
        let http = &self.http;
        let fields =
            fields(std::mem::take(&mut self.headers), authorization, &http.user_agent, &mut secrets)?;
        let roots = match (&http.ca_file, env::var_os(CA_VARIABLE)) {
            (Some(path), _) => Some(("ca_file", path.clone())),
            (None, Some(path)) if base.https && !path.is_empty() => Some((CA_VARIABLE, path.into())),
            (None, _) => None,
        };
        let roots =
            roots.map(|(setting, path)| pem_file(setting, &path).map(|file| (setting, file))).transpose()?;
        let client_cert = http.client_cert.as_ref().map(read_client_cert).transpose()?;
        let has_tls = cfg!(any(feature = "rustls", feature = "native-tls"));
        if has_tls && client_cert.is_some() && !base.https {
            let message = "is presented only over TLS; use an https:// address as base_url";
            return Err(Error::config("client_cert", message));
        }
        let headers = RequestHeaders { fields: headers(&fields)?, secrets: Arc::new(secrets) };
        let endpoint = Endpoint { base, query, headers, roots, client_cert };
        endpoint.check(http)?;
        Ok(Config { settings: self, endpoint })
    }

    /// Checks the key, and returns the value of the `Authorization` header made from it. There is none if the program
    /// sets that header or a key function, or if no key is given and none is needed.
    fn authorization(&mut self, base: &BaseUrl) -> Result<Option<String>> {
        let mut names = self.headers.iter().map(|(name, _)| name.as_str());
        if names.clone().any(|name| name.eq_ignore_ascii_case(AUTHORIZATION)) {
            (self.api_key, self.key_function) = (String::new(), None);
            return Ok(None);
        }
        if self.key_function.is_some() {
            return Ok(None);
        }
        let mut parameters = base.query.split('&').filter_map(|field| field.split('=').next());
        let is_optional = base.loopback
            || self.http.client_cert.is_some()
            || names.any(api_key::is_credential)
            || parameters.any(api_key::is_credential);
        let setting = self.key_origin.setting();
        let key = api_key::checked(&self.api_key).map_err(|problem| Error::config(setting, problem))?;
        if key.is_empty() && !is_optional {
            return Err(api_key::missing(self.key_origin, base));
        }
        self.api_key = key.to_owned();
        Ok((!self.api_key.is_empty()).then(|| format!("Bearer {}", self.api_key)))
    }
}

/// The header fields of every request, with placeholders for secret values: the program's own, and those of the client.
fn fields(
    mut fields: Vec<(String, String)>,
    authorization: Option<String>,
    user_agent: &str,
    secrets: &mut Secrets,
) -> Result<Vec<(String, String)>> {
    fields.iter().try_for_each(|(name, _)| refuse_own_header(name))?;
    fields.extend(authorization.map(|value| (AUTHORIZATION.to_owned(), value)));
    headers(&fields)?; // before the values are replaced by placeholders
    for (name, value) in &mut fields {
        *value = secrets.add(&name.to_ascii_lowercase(), value, fastrand::alphanumeric);
    }
    let mut add = |name: &str, value: &str| fields.push((name.to_owned(), value.to_owned()));
    add("user-agent", user_agent);
    // ureq adds its own if it can decompress.
    if cfg!(not(feature = "gzip")) {
        add("accept-encoding", "identity");
    }
    // For requests with a body; those without remove them. Replacing a field is cheaper than adding one.
    add("content-type", "application/json");
    add("idempotency-key", "none");
    if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept")) {
        fields.push(("accept".to_owned(), "application/json".to_owned()));
    }
    Ok(fields)
}

/// A builder with the values of the two environment variables; errors about a value name its variable. Whether a key is
/// needed depends on the other settings, too.
pub(super) fn from_variables(key: Option<String>, base_url: Option<String>) -> Result<ConfigBuilder> {
    let mut builder = Config::builder();
    builder.key_origin = if key.is_some() { Origin::Variable } else { Origin::UnsetVariable };
    let key = key.unwrap_or_default();
    builder.api_key =
        api_key::checked(&key).map_err(|problem| Error::config(KEY_VARIABLE, problem))?.to_owned();
    Ok(match base_url {
        Some(url) if !unquoted(&url).is_empty() => {
            BaseUrl::parse(&url).map_err(concerning(URL_VARIABLE))?;
            builder.base_url(url)
        }
        _ => builder,
    })
}

/// Attributes an error about a value to the setting that the value comes from.
fn concerning(setting: &'static str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Config { message, source, .. } => Error::Config { setting, message, source },
        other => other,
    }
}

/// Parses the base URL, and checks that the key may be sent there.
fn address(url: &str, allow_plain_http: bool) -> Result<BaseUrl> {
    let base = BaseUrl::parse(url)?;
    if base.https && cfg!(not(any(feature = "rustls", feature = "native-tls"))) {
        return Err(Error::config(
            "base_url",
            "is https://, but this build has no TLS; enable the feature rustls",
        ));
    }
    if !base.https && !base.loopback && !allow_plain_http {
        let message =
            "is http://, which exposes the key on the network; use https:// or allow_plain_http(true)";
        return Err(Error::config("base_url", message));
    }
    Ok(base)
}

/// The minimum timeout or deadline: no exchange with a server is as fast.
const MIN_TIME: Duration = Duration::from_millis(1);

fn time_in_range(setting: &'static str, time: Duration, remedy: &str) -> Result<()> {
    if time < MIN_TIME {
        return Err(Error::config(setting, format!("{time:?} is below the minimum of 1 ms; {remedy}")));
    }
    if time > MAX_TIME {
        return Err(Error::config(setting, "exceeds the maximum of 24 hours; lower it"));
    }
    Ok(())
}

/// Clamps a deadline to the allowed range, with a warning in the log if that changes it. A deadline of zero has already
/// passed.
pub(crate) fn clamped_deadline(deadline: Duration) -> Duration {
    clamped("deadline", deadline, Duration::ZERO)
}

/// Clamps a timeout to the allowed range, with a warning in the log if that changes it.
pub(crate) fn clamped_timeout(timeout: Duration) -> Duration {
    clamped("timeout", timeout, MIN_TIME)
}

fn clamped(setting: &str, time: Duration, min: Duration) -> Duration {
    let allowed = time.clamp(min, MAX_TIME);
    if allowed != time {
        log::warn!("{setting}: {time:?} is out of range; continuing with {allowed:?}");
    }
    allowed
}

/// The headers of a client with an additional one, or with another value of an existing one.
pub(crate) fn with_header(headers: &RequestHeaders, name: &str, value: &str) -> Result<RequestHeaders> {
    refuse_own_header(name)?;
    let field = |value: &str| options::headers(&[(name.to_owned(), value.to_owned())]);
    field(value)?; // before the value is replaced by a placeholder
    let mut secrets = Secrets::clone(&headers.secrets);
    let lower = name.to_ascii_lowercase();
    secrets.retire(&lower);
    let placeholder = secrets.add(&lower, value, fastrand::alphanumeric);
    let mut fields = headers.fields.clone();
    for (name, value) in &field(&placeholder)? {
        fields.insert(name, value.clone());
    }
    Ok(RequestHeaders { fields, secrets: Arc::new(secrets) })
}

fn refuse_own_header(name: &str) -> Result<()> {
    if OWN_HEADERS.contains(&&*name.to_ascii_lowercase()) {
        let message = format!("{name} is set by the client itself; leave it out or use its own setting");
        return Err(Error::config("header", message));
    }
    Ok(())
}

fn read_file(setting: &'static str, path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Config {
        setting,
        message: format!("{} can't be read: {source}", path.display()),
        source: None, // the message includes it
    })
}

fn pem_file(setting: &'static str, path: &Path) -> Result<PemFile> {
    Ok(PemFile { path: path.to_owned(), pem: read_file(setting, path)? })
}

fn read_client_cert(paths: &ClientCertFiles<PathBuf>) -> Result<ClientCertFiles<PemFile>> {
    let read = |path: &PathBuf| pem_file("client_cert", path);
    Ok(ClientCertFiles { chain: read(&paths.chain)?, key: read(&paths.key)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_replaced_has_one_placeholder() {
        let headers = RequestHeaders { fields: options::headers(&[]).unwrap(), secrets: Arc::default() };
        let headers = with_header(&headers, "X-Tenant", "first-tenant").unwrap();
        let headers = with_header(&headers, "x-tenant", "second-tenant").unwrap();
        assert_eq!((headers.fields.len(), headers.secrets.len()), (1, 1));
        let both = headers.secrets.redact(b"first-tenant, second-tenant");
        assert_eq!(String::from_utf8_lossy(&both), "…, …");
    }
}
