//! A request that the test server received.

use serde_json::Value;

/// A recorded request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The method, for example `POST`.
    pub method: String,
    /// The path with its query, as it was sent: for example `/v1/chat/completions`.
    pub path: String,
    /// The names, in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body; invalid UTF-8 is replaced.
    pub body: String,
    /// The number of the connection that the request came from, counted from 1.
    pub connection: usize,
}

impl Request {
    /// Parses the head of a request, up to the empty line, for a custom server. `None` if it is invalid.
    ///
    /// ```
    /// use holysheep::test_server::Request;
    ///
    /// let request = Request::parse("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    /// assert_eq!((request.path.as_str(), request.header("host")), ("/v1/models", Some("localhost")));
    /// ```
    pub fn parse(head: &str) -> Option<Request> {
        let mut lines = head.lines().take_while(|line| !line.is_empty());
        let mut words = lines.next()?.split(' ');
        let (method, path, version) = (words.next()?, words.next()?, words.next()?);
        if method.is_empty() || !version.starts_with("HTTP/1.") || words.next().is_some() {
            return None;
        }
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Some(Request {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: headers.collect::<Option<_>>()?,
            ..Request::default()
        })
    }

    /// The first header with this name, ignoring case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it isn't JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The length of the body; 0 without `Content-Length`, `None` if it isn't a number.
    pub(super) fn content_length(&self) -> Option<usize> {
        self.header("content-length").map_or(Some(0), |length| length.parse().ok())
    }

    /// The approximate size in memory.
    pub(super) fn size(&self) -> usize {
        let headers =
            self.headers.iter().map(|(name, value)| size_of_val(&(name, value)) + name.len() + value.len());
        size_of::<Request>() + self.path.len() + self.body.len() + headers.sum::<usize>()
    }
}
