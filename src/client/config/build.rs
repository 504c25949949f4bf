//! The checks of a configuration, each with its remedy, and the reading of the environment.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::client::config::{Config, ConfigBuilder, KEY_VARIABLE, SIGN_UP, URL_VARIABLE};
use crate::error::{Error, Result};
use crate::http::settings::{Settings, headers};
use crate::policy::backoff::LONGEST;
use crate::wire::api_key;
use crate::wire::base_url::BaseUrl;
use crate::wire::secrets::Secrets;

/// Headers that the client itself writes, because a request doesn't work without them as they are or because they
/// have a setting of their own.
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
    /// Checks everything.
    ///
    /// # Errors
    /// [`Error::Config`] that names the setting and says what to change.
    pub fn build(self) -> Result<Config> {
        let base = address(&self.base_url, self.allow_plain_http)?;
        time_in_range("connect_timeout", self.connect_timeout, "10 s is usual")?;
        time_in_range("timeout", self.timeout, "60 s is usual")?;
        if let Some(deadline) = self.deadline {
            time_in_range("deadline", deadline, "leave it out")?;
        }
        if self.max_response_bytes == 0 {
            return Err(Error::config("max_response_bytes", "is 0, which no answer fits into"));
        }
        self.retry.check()?;
        self.adaptive.check()?;
        headers(&[("user-agent".to_owned(), self.user_agent.clone())]).map_err(said_of("user_agent"))?;
        let own_authorization =
            self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let key = if own_authorization {
            self.key.trim().to_owned()
        } else {
            api_key::checked(&self.key, SIGN_UP)?
        };
        let authorization = (!own_authorization).then(|| format!("Bearer {key}"));
        let mut secrets = Secrets::default();
        let fields = fields(self.headers, authorization, &self.user_agent, &mut secrets)?;
        let settings = Settings {
            base,
            headers: headers(&fields)?,
            secrets: Arc::new(secrets),
            user_agent: self.user_agent,
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            proxy: self.proxy,
            roots: self.ca_file.as_deref().map(read_ca_file).transpose()?,
            max_idle_connections: self.max_idle_connections,
            max_response_bytes: self.max_response_bytes,
        };
        settings.check()?;
        Ok(Config {
            settings,
            key,
            deadline: self.deadline,
            retry: self.retry,
            adaptive: self.adaptive,
            handler: self.handler,
            idempotency_key: self.idempotency_key,
            observer: self.observer,
            clock: self.clock,
        })
    }
}

/// The fields of every request's head, with stand-ins for the secret ones: what the program sets, and what has a setting.
fn fields(
    mut fields: Vec<(String, String)>,
    authorization: Option<String>,
    user_agent: &str,
    secrets: &mut Secrets,
) -> Result<Vec<(String, String)>> {
    let own = |name: &str| OWN_HEADERS.contains(&&*name.to_ascii_lowercase());
    if let Some((name, _)) = fields.iter().find(|(name, _)| own(name)) {
        let message = format!("{name} is written by the client itself; leave it out or use its own setting");
        return Err(Error::config("header", message));
    }
    fields.extend(authorization.map(|value| ("authorization".to_owned(), value)));
    headers(&fields)?; // while the values are still there to be checked
    for (_, value) in &mut fields {
        *value = secrets.keep(value, fastrand::alphanumeric);
    }
    let mut add = |name: &str, value: &str| fields.push((name.to_owned(), value.to_owned()));
    add("user-agent", user_agent);
    // For requests with a body. Those without leave them out; to replace them is cheaper than to add them.
    add("content-type", "application/json");
    add("idempotency-key", "none");
    if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept")) {
        fields.push(("accept".to_owned(), "application/json".to_owned()));
    }
    Ok(fields)
}

/// A builder with the values of the two variables; an error about a value names its variable.
pub(super) fn from_variables(key: Option<String>, base_url: Option<String>) -> Result<ConfigBuilder> {
    let Some(key) = key else {
        let message = format!("is not set; get a key at {SIGN_UP} and export it");
        return Err(Error::config(KEY_VARIABLE, message));
    };
    api_key::checked(&key, SIGN_UP).map_err(said_of(KEY_VARIABLE))?;
    let builder = Config::builder().api_key(key);
    Ok(match base_url {
        Some(url) if !url.trim().is_empty() => {
            BaseUrl::parse(&url).map_err(said_of(URL_VARIABLE))?;
            builder.base_url(url)
        }
        _ => builder,
    })
}

/// What is wrong with a setting, said of the one that its value came from.
fn said_of(setting: &'static str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Config { message, source, .. } => Error::Config { setting, message, source },
        other => other,
    }
}

/// The address of the service, if the key may be sent there.
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
            "is http://, which sends the key for everybody to read; use https:// or allow_plain_http(true)";
        return Err(Error::config("base_url", message));
    }
    Ok(base)
}

fn time_in_range(setting: &'static str, time: Duration, remedy: &str) -> Result<()> {
    if time.is_zero() {
        return Err(Error::config(setting, format!("is zero, so that every call would fail; {remedy}")));
    }
    if time > LONGEST {
        return Err(Error::config(setting, "is more than a day, which can't be meant; lower it"));
    }
    Ok(())
}

fn read_ca_file(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Config {
        setting: "ca_file",
        message: format!("{} can't be read", path.display()),
        source: Some(source.into()),
    })
}
