//! One connection of the test server: reads requests and sends the replies, byte for byte.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use crate::test_server::reply::{self, End, Reply};
use crate::test_server::request::Request;
use crate::test_server::{MAX_BODY, MAX_HEAD, Shared};

/// Serves a connection until it ends or the server is dropped.
pub(super) fn serve(stream: TcpStream, number: usize, shared: &Shared) {
    let stream = Arc::new(stream);
    let _ = stream.set_nodelay(true); // otherwise the system delays the single bytes of a slow reply
    let _shut_down_with_the_server = shared.stopped.subscribe({
        let stream = Arc::clone(&stream);
        move || drop(stream.shutdown(Shutdown::Both))
    });
    while let Ok(Some(received)) = receive(&stream) {
        let reply = match received {
            Ok(request) => shared.reply_to(Request { connection: number, ..request }),
            Err(refusal) => refusal.then_close(),
        };
        if !reply.early && (&*stream).read_exact(&mut [0]).is_err() {
            return;
        }
        if !send(&stream, &reply, shared) {
            return;
        }
    }
}

/// Reads a request except for its last byte: if the connection is then closed, the system resets it.
///
/// `None` at the end of the connection; `Err` holds the reply to a request that the server can't read.
fn receive(stream: &TcpStream) -> io::Result<Option<Result<Request, Reply>>> {
    let Some((mut request, unread)) = receive_head(stream)? else { return Ok(None) };
    if request.header("transfer-encoding").is_some() {
        return Ok(Some(Err(reply::refusal(411, "the test server reads requests with content-length only"))));
    }
    let Some(length) = request.content_length() else {
        return Ok(Some(Err(reply::refusal(400, "the content-length is not a number"))));
    };
    if length > MAX_BODY {
        return Ok(Some(Err(reply::refusal(413, "the body is too large for the test server"))));
    }
    if let Some(most) = length.checked_sub(1) {
        let mut head = vec![0; unread];
        (&*stream).read_exact(&mut head)?;
        let mut body = vec![0; length];
        (&*stream).read_exact(&mut body[..most])?;
        if peek(stream, &mut body[most..])? == 0 {
            return Ok(None);
        }
        request.body = String::from_utf8_lossy(&body).into_owned();
    } else {
        let mut head = vec![0; unread - 1];
        (&*stream).read_exact(&mut head)?;
    }
    Ok(Some(Ok(request)))
}

/// Reads the head of a request except for its last bytes; returns how many are still unread, which is at least one.
fn receive_head(stream: &TcpStream) -> io::Result<Option<(Request, usize)>> {
    let (mut head, mut chunk) = (Vec::new(), [0; 4096]);
    while head.len() <= MAX_HEAD {
        let count = peek(stream, &mut chunk)?;
        if count == 0 {
            return Ok(None);
        }
        let known = head.len();
        head.extend_from_slice(&chunk[..count]);
        let search = known.saturating_sub(3);
        if let Some(end) = head[search..].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            head.truncate(search + end + 4);
            let request = Request::parse(&String::from_utf8_lossy(&head));
            return Ok(request.map(|request| (request, head.len() - known)));
        }
        (&*stream).read_exact(&mut chunk[..count])?;
    }
    Ok(None)
}

/// Waits for bytes and reads them without removing them; 0 at the end of the connection.
fn peek(stream: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.peek(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sends a reply; returns whether the connection stays open for the next request.
fn send(mut stream: &TcpStream, reply: &Reply, shared: &Shared) -> bool {
    if !reply.latency.is_zero() && !shared.sleep(reply.latency) {
        return false;
    }
    let (bytes, at_once) = reply.sent();
    if stream.write_all(&bytes[..at_once]).is_err() {
        return false;
    }
    for byte in &bytes[at_once..] {
        if !shared.sleep(reply.pace) || stream.write_all(&[*byte]).is_err() {
            return false;
        }
    }
    if reply.end == End::Stall {
        // Until the client closes the connection or the server is dropped.
        while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
    }
    reply.end == End::KeepOpen && !reply.early
}
