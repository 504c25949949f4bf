//! The checks of a configuration, each with its remedy, and the reading of the environment.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Config, ConfigBuilder, SIGN_UP};
use crate::error::{Error, Result};
use crate::io::settings::{Settings, headers};
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
        if headers(&[("user-agent".to_owned(), self.user_agent.clone())]).is_err() {
            return Err(Error::config("user_agent", "holds a character that no header can carry"));
        }
        let own_authorization =
            self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let key = if own_authorization {
            self.key.trim().to_owned()
        } else {
            api_key::checked(&self.key, SIGN_UP)?
        };
        let mut all = self.headers;
        if let Some((name, _)) =
            all.iter().find(|(name, _)| OWN_HEADERS.contains(&&*name.to_ascii_lowercase()))
        {
            return Err(Error::config(
                "header",
                format!("{name} is written by the client itself; leave it out or use its own setting"),
            ));
        }
        if !own_authorization {
            all.push(("authorization".to_owned(), format!("Bearer {key}")));
        }
        let mut secrets = Secrets::default();
        headers(&all)?; // while the values are still there to be checked
        for (_, value) in &mut all {
            *value = secrets.keep(value, fastrand::alphanumeric);
        }
        all.push(("user-agent".to_owned(), self.user_agent.clone()));
        if !all.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept")) {
            all.push(("accept".to_owned(), "application/json".to_owned()));
        }
        // For requests with a body. Those without leave them out; to replace them is cheaper than to add them.
        all.push(("content-type".to_owned(), "application/json".to_owned()));
        all.push(("idempotency-key".to_owned(), "none".to_owned()));
        let settings = Settings {
            base,
            headers: headers(&all)?,
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

/// Builds from the values of the two variables, and lets an error about a value name its variable.
pub(super) fn from_variables(key: Option<String>, base_url: Option<String>) -> Result<Config> {
    let Some(key) = key else {
        let message = format!("is not set; get a key at {SIGN_UP} and export it");
        return Err(Error::config("HOLYSHEEP_API_KEY", message));
    };
    let builder = Config::builder().api_key(key);
    let builder = match base_url {
        Some(url) if !url.trim().is_empty() => builder.base_url(url),
        _ => builder,
    };
    builder.build().map_err(|error| match error {
        Error::Config { setting: "api_key", message, source } => {
            Error::Config { setting: "HOLYSHEEP_API_KEY", message, source }
        }
        Error::Config { setting: "base_url", message, source } => {
            Error::Config { setting: "HOLYSHEEP_BASE_URL", message, source }
        }
        other => other,
    })
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
