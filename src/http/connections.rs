//! The pool of connections. A forked process gets a pool of its own.

use std::process;
use std::sync::Mutex;

use ureq::Agent;
use ureq::config::Config;

use crate::http::connector::HttpConnector;
use crate::runtime::sync::lock;

/// The connections of one client.
pub(super) struct Connections {
    connector: HttpConnector,
    agent: Agent,
    /// The process that created `agent`.
    process: u32,
    /// The agent of a forked process.
    forked: Mutex<Option<(u32, Agent)>>,
}

impl Connections {
    pub(super) fn new(config: Config, connector: HttpConnector) -> Connections {
        let agent = Agent::with_parts(config, connector.clone(), connector.dns());
        Connections { connector, agent, process: process::id(), forked: Mutex::default() }
    }

    /// A separate pool with the same settings and another connector.
    pub(super) fn with_connector(&self, connector: HttpConnector) -> Connections {
        Connections::new(self.agent.config().clone(), connector)
    }

    pub(super) fn connector(&self) -> &HttpConnector {
        &self.connector
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
                let config = self.agent.config().clone();
                let agent = Agent::with_parts(config, self.connector.clone(), self.connector.dns());
                // Leaked on purpose: closing its TLS sessions would disturb the process that owns it.
                std::mem::forget(forked.replace((process, agent.clone())));
                agent
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::http::dns_cache::DnsCache;
    use crate::runtime::cancel::Cancel;
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
        let connections = Connections::new(config, HttpConnector::new(dns, Arc::default()));
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
