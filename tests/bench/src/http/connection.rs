//! A connection that is kept, and the least that a caller has to do with it.

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const READ: usize = 64 << 10;

/// A connection of one caller.
pub(super) struct Connection {
    stream: TcpStream,
    host: String,
    read: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("connect over HTTP")?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            host: address.to_owned(),
            read: Vec::with_capacity(READ),
        })
    }

    /// Sends a request with these headers, each with its line's end; returns the body of a good response.
    pub(super) async fn exchange(&mut self, line: &str, headers: &str, body: &[u8]) -> Result<&[u8]> {
        let head = format!(
            "{line} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n{headers}\r\n",
            self.host,
            body.len()
        );
        self.stream.write_all(&[head.as_bytes(), body].concat()).await?;
        self.read.clear();
        let body = loop {
            if let Some(body) = self.whole()? {
                break body;
            }
            let read = self.stream.read_buf(&mut self.read).await?;
            ensure!(
                read > 0,
                "the connection ended: {}",
                String::from_utf8_lossy(&self.read)
            );
        };
        ensure!(
            self.read.starts_with(b"HTTP/1.1 200"),
            "{line}: {}",
            String::from_utf8_lossy(&self.read)
        );
        Ok(self.read.get(body..).unwrap_or_default())
    }

    /// Where the body begins, once all of it is here.
    fn whole(&self) -> Result<Option<usize>> {
        let Some(head) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&self.read[..head])?;
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.context("a response without a length")?.parse()?;
        Ok((self.read.len() >= head + 4 + length).then_some(head + 4))
    }

    /// Begins a live tail, which sends from then on.
    pub(super) async fn follow(mut self, query: &str, token: &str) -> Result<TcpStream> {
        let head = format!(
            "GET /v1/events{query} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n\r\n",
            self.host
        );
        self.stream.write_all(head.as_bytes()).await?;
        // The first message has an id: from there on nothing is missed.
        while !self.read.windows(4).any(|bytes| bytes == b"\nid:") {
            let read = self.stream.read_buf(&mut self.read).await?;
            ensure!(
                read > 0 && self.read.starts_with(b"HTTP/1.1 200"),
                "no tail: {}",
                String::from_utf8_lossy(&self.read)
            );
        }
        Ok(self.stream)
    }
}

/// Connections of so many callers.
pub(super) async fn open(address: &str, callers: usize) -> Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(callers);
    for _ in 0..callers {
        connections.push(Connection::open(address).await?);
    }
    Ok(connections)
}
