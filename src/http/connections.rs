//! The pool of connections and its settings. A forked process gets a pool of its own.

use std::process;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::Agent;
use ureq::config::Config;

use crate::error::Result;
use crate::http::exchange::MAX_HEAD;
use crate::http::options::{Endpoint, HttpOptions, MAX_LINE};
use crate::http::transport::{INPUT_BUFFER, MAX_BODY_TIME};
use crate::runtime::cancel::Cancel;
use crate::runtime::sync::lock;

/// The output buffer in bytes: each line of a head fits, because their lengths are checked. A body goes out in parts. As
/// large as the input buffer, it would cost 512 connections 3.5 MiB more.
const OUTPUT_BUFFER: usize = MAX_LINE + 1024;

/// How long a connection may idle: shorter than the 60 s after which common load balancers close theirs.
const MAX_IDLE_AGE: Duration = Duration::from_secs(55);

/// Creates an agent with these settings. The token ends its look-ups and connects.
pub(super) type NewAgent = Arc<dyn Fn(Config, Cancel) -> Agent + Send + Sync>;

/// The connections of one client.
pub(super) struct Connections {
    new_agent: NewAgent,
    cancel: Cancel,
    agent: Agent,
    /// The process that created `agent`.
    process: u32,
    /// The agent of a forked process.
    forked: Mutex<Option<(u32, Agent)>>,
}

impl Connections {
    pub(super) fn new(config: Config, cancel: Cancel, new_agent: NewAgent) -> Connections {
        let agent = new_agent(config, cancel.clone());
        Connections { new_agent, cancel, agent, process: process::id(), forked: Mutex::default() }
    }

    /// A separate pool with the same settings, which another token ends.
    pub(super) fn child(&self, cancel: Cancel) -> Connections {
        Connections::new(self.agent.config().clone(), cancel, Arc::clone(&self.new_agent))
    }

    /// The agent of this process.
    pub(super) fn agent(&self) -> Agent {
        self.agent_of(process::id())
    }

    /// Ends every exchange of this process and prevents new ones.
    pub(super) fn shut_down(&self) {
        self.agent().shutdown();
    }

    fn agent_of(&self, process: u32) -> Agent {
        if process == self.process {
            return self.agent.clone();
        }
        let mut forked = lock(&self.forked);
        match &*forked {
            Some((owner, agent)) if *owner == process => agent.clone(),
            _ => {
                let agent = (self.new_agent)(self.agent.config().clone(), self.cancel.clone());
                // Leaked on purpose: closing its TLS sessions would disturb the process that owns it.
                std::mem::forget(forked.replace((process, agent.clone())));
                agent
            }
        }
    }
}

/// The settings of an agent.
pub(super) fn config(options: &HttpOptions, endpoint: &Endpoint) -> Result<Config> {
    let idle = options.max_idle_connections;
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(&options.user_agent)
        .timeout_connect(Some(options.connect_timeout))
        .timeout_recv_response(Some(options.timeout))
        .timeout_per_read(Some(options.timeout))
        .timeout_per_write(Some(options.timeout))
        .timeout_recv_body(Some(MAX_BODY_TIME))
        .input_buffer_size(INPUT_BUFFER)
        .output_buffer_size(OUTPUT_BUFFER)
        .max_response_header_size(MAX_HEAD)
        .max_idle_connections(idle)
        .max_idle_connections_per_host(idle)
        .max_idle_age(MAX_IDLE_AGE)
        .proxy(endpoint.proxy(options)?);
    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    let config = config.tls_config(crate::http::tls::config(endpoint)?);
    Ok(config.build())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::http::connector::HttpConnector;
    use crate::http::dns_cache::DnsCache;
    use crate::runtime::clock::Clock;

    #[test]
    fn a_forked_process_has_connections_of_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (accepted, connections_made) = mpsc::channel();
        thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                accepted.send(()).unwrap();
                thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while socket.read(&mut bytes).is_ok_and(|length| length > 0) {
                        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
                    }
                });
            }
        });
        let dns = DnsCache::new(Clock::system(), Cancel::default(), Duration::from_secs(10));
        let config = Agent::config_builder().proxy(None).build();
        let new_agent = HttpConnector::new(dns, Arc::default()).agents();
        let connections = Connections::new(config, Cancel::default(), new_agent);
        let this = process::id();
        let mut made = 0;
        for (process, expected) in
            [(this, 1), (this, 1), (this + 1, 2), (this + 1, 2), (this, 2), (this + 2, 3)]
        {
            let mut answer = connections.agent_of(process).get(&url).call().unwrap();
            assert_eq!(answer.body_mut().read_to_string().unwrap(), "ok");
            made += connections_made.try_iter().count();
            assert_eq!(made, expected, "process {process}");
        }
        assert_eq!(lock(&connections.forked).as_ref().map(|(process, _)| *process), Some(this + 2));
    }
}
