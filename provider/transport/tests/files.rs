//! A process that has no more files: its listeners wait, and go on once there are some. Alone in its process, whose limit
//! it changes.

#[path = "support/mod.rs"]
mod support;

use std::os::fd::AsRawFd as _;

use fanout_transport::{Drained, Endpoint, ListenOptions, Listener, Service, raise_open_files};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use support::PATIENCE;

const HELLO: &[u8] = b"\xfafanout\x01";
const CALLERS: usize = 8;

fn allow_files(files: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(files);
    setrlimit(Resource::Nofile, limit).expect("up to the maximum it may be changed");
}

async fn bind() -> Listener {
    let endpoint: Endpoint = "tcp://127.0.0.1:0".parse().expect("an endpoint");
    let listener = Listener::bind(&endpoint, ListenOptions::default()).await;
    listener.expect("it is free")
}

async fn call(listener: &Listener) -> TcpStream {
    let at = listener.local_endpoint().authority().expect("a port").to_string();
    let mut stream = TcpStream::connect(at).await.expect("it is bound");
    stream.write_all(HELLO).await.expect("sent");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_go_on_once_there_are_files_again() {
    raise_open_files();
    let most = getrlimit(Resource::Nofile).current.unwrap_or(1024);
    let (first, second, leaving) = (bind().await, bind().await, bind().await);
    // They wait to be accepted, and their own ends have their files already.
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        callers.push(call(&first).await);
        callers.push(call(&second).await);
    }
    let last = call(&leaving).await;
    allow_files(last.as_raw_fd() as u64 + 1);
    let service = Service::new();
    let serving = [first.serve(&service), second.serve(&service)];
    let leaving = leaving.serve(&service);
    let mut greeting = [0; 20];
    let greeted = timeout(
        std::time::Duration::from_millis(500),
        callers[0].read_exact(&mut greeting),
    )
    .await;
    assert!(greeted.is_err(), "there are no files, and it is served");
    // One that waits for files can be stopped.
    let drained = timeout(PATIENCE, leaving.drain(PATIENCE)).await;
    assert_eq!(drained.expect("it ends"), Drained { abandoned: 0 });
    allow_files(most);
    for caller in &mut callers {
        let greeted = timeout(PATIENCE, caller.read_exact(&mut greeting)).await;
        greeted.expect("in time").expect("it is served");
    }
    assert!(serving.iter().all(|serving| serving.connections() == CALLERS));
}
