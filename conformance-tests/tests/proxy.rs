//! The line's framings, on what real servers and clients say to each other.
#![allow(clippy::unwrap_used)]

use dlock_conformance::Proxy;
use dlock_conformance::proxy::{Action, Framing, Requests, Way};
use dlock_fixtures::{RedisServer, Server, free_port};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Sends a request and reads until `ends`, or the connection does.
async fn ask(stream: &mut TcpStream, request: &[u8], ends: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(ends) {
        if within("an answer", stream.read_buf(&mut answer)).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(answer)
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes += &format!("${}\r\n{word}\r\n", word.len());
    }
    bytes.into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_action_does_what_it_says_to_a_redis_server() {
    let server = RedisServer::start();
    let line = Proxy::tcp(Framing::Resp, format!("127.0.0.1:{}", server.port())).await.unwrap();
    let mut direct = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    for (action, reaches, answered) in [
        (Action::Pass, 1, true),
        (Action::LoseRequest, 0, false),
        (Action::CutRequest, 0, false),
        (Action::LoseReply, 1, false),
        (Action::CutReply, 1, false),
        (Action::Twice, 2, true),
    ] {
        let key = format!("key-{action:?}");
        let rule = line.on(Requests::with(&key), 0, action);
        let mut client = TcpStream::connect(line.address()).await.unwrap();
        assert_eq!(ask(&mut client, b"PING\r\n", b"\r\n").await.unwrap(), b"+PONG\r\n");
        let answer = ask(&mut client, &command(&["INCR", &key]), b"\r\n").await;
        assert_eq!(answer.is_ok(), answered, "{action:?}: {answer:?}");
        if answered {
            // Replies are still in turn.
            assert_eq!(ask(&mut client, b"PING\r\n", b"\r\n").await.unwrap(), b"+PONG\r\n", "{action:?}");
        }
        assert_eq!(rule.is_struck(), action != Action::Pass);
        let count = ask(&mut direct, &command(&["GET", &key]), b"\r\n").await.unwrap();
        let expected = if reaches == 0 { "$-1\r\n".to_owned() } else { format!("$1\r\n{reaches}\r\n") };
        assert_eq!(String::from_utf8(count).unwrap(), expected, "{action:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_arrives_after_its_client_has_gone_and_a_stalled_line_is_silent() {
    let server = RedisServer::start();
    let line = Proxy::tcp(Framing::Resp, format!("127.0.0.1:{}", server.port())).await.unwrap();
    let mut direct = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    let held = line.on(Requests::with("held"), 0, Action::Hold);
    let mut client = TcpStream::connect(line.address()).await.unwrap();
    client.write_all(&command(&["INCR", "held"])).await.unwrap();
    within("it is held", held.struck()).await;
    drop(client);
    assert_eq!(ask(&mut direct, &command(&["GET", "held"]), b"\r\n").await.unwrap(), b"$-1\r\n");
    held.let_go();
    within("it is carried out", held.answered()).await;
    assert_eq!(ask(&mut direct, &command(&["GET", "held"]), b"\r\n").await.unwrap(), b"$1\r\n1\r\n");

    let stalled = line.on(Requests::with("stalled"), 0, Action::Stall);
    let mut client = TcpStream::connect(line.address()).await.unwrap();
    client.write_all(&command(&["INCR", "stalled"])).await.unwrap();
    within("it is carried out", stalled.struck()).await;
    let mut other = TcpStream::connect(line.address()).await.unwrap();
    assert_eq!(ask(&mut other, b"PING\r\n", b"\r\n").await.unwrap(), b"+PONG\r\n");
    client.write_all(&command(&["INCR", "behind it"])).await.unwrap();
    line.cut().await;
    let end = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(ask(&mut direct, &command(&["GET", "behind it"]), b"\r\n").await.unwrap(), b"$-1\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_line_refuses_a_frozen_one_keeps_and_a_slow_one_delays() {
    let server = RedisServer::start();
    let line = Proxy::tcp(Framing::Resp, format!("127.0.0.1:{}", server.port())).await.unwrap();
    line.cut().await;
    let refused = TcpStream::connect(line.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    line.heal().await;
    line.freeze(Way::Down);
    let counted = line.count(Requests::all());
    let mut client = TcpStream::connect(line.address()).await.unwrap();
    client.write_all(b"PING\r\n").await.unwrap();
    let mut answer = [0; 7];
    let mut read = Box::pin(client.read_exact(&mut answer));
    tokio::select! {
        _ = &mut read => panic!("an answer on a frozen line"),
        () = async { while counted.seen() == 0 { tokio::task::yield_now().await } } => {}
    }
    line.heal().await;
    within("the answer that was kept", read).await.unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    let late = Duration::from_millis(60);
    line.delay(Way::Up, late);
    let begun = std::time::Instant::now();
    ask(&mut client, b"PING\r\n", b"\r\n").await.unwrap();
    assert!(begun.elapsed() >= late);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_requests_of_curl_are_seen_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (upstream, bodies) = (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(Vec::new())));
    let seen = bodies.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                // Every body ends so, and holds no brace before.
                while client.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                    while let Some(end) = bytes.iter().position(|byte| *byte == b'}') {
                        let request: Vec<u8> = bytes.drain(..=end).collect();
                        let body = request.split(|byte| *byte == b'{').next_back().unwrap();
                        seen.lock().unwrap().push(String::from_utf8(body.to_vec()).unwrap());
                        client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                    }
                }
            });
        }
    });
    let line = Proxy::tcp(Framing::Http1, upstream).await.unwrap();
    let post = async |body: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "10", "--data", body]).arg(format!("http://{}/", line.address()));
        curl.output().await.expect("curl; get it by: apt-get install curl")
    };
    for (action, times, answered) in [
        (Action::LoseRequest, 0, false),
        (Action::LoseReply, 1, false),
        (Action::Pass, 1, true),
        (Action::Twice, 2, true),
    ] {
        let key = format!("{action:?}-key");
        line.on(Requests::with(&key), 0, action);
        let curl = post(&format!("{{{key}}}")).await;
        assert_eq!(curl.status.success() && curl.stdout == b"ok", answered, "{action:?}: {curl:?}");
        let got = bodies.lock().unwrap().iter().filter(|body| **body == format!("{key}}}")).count();
        assert_eq!(got, times, "{action:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_requests_of_etcdctl_are_told_apart() {
    let (folder, client, peer) = (TempDir::new().unwrap(), free_port(), free_port());
    let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let data = folder.path().display().to_string();
    let words = [
        ["--data-dir", &data],
        ["--listen-client-urls", &client_url],
        ["--advertise-client-urls", &client_url],
        ["--listen-peer-urls", &peer_url],
        ["--initial-advertise-peer-urls", &peer_url],
        ["--initial-cluster", &format!("default={peer_url}")],
    ];
    let words = std::iter::once("etcd").chain(words.into_iter().flatten()).map(String::from).collect();
    let ready = || std::net::TcpStream::connect(("127.0.0.1", client)).is_ok();
    let _server = Server::start(words, "apt-get install etcd-server", ready);
    let ctl = async |place: String, words: &[&str]| {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &place, "--command-timeout", "5s"]).args(words);
        etcdctl.output().await.expect("etcdctl; get it by: apt-get install etcd-client")
    };
    let line = Proxy::tcp(Framing::Http2, format!("127.0.0.1:{client}")).await.unwrap();
    let over = line.address().to_string();
    for (action, value) in
        [(Action::Pass, "v"), (Action::LoseRequest, ""), (Action::LoseReply, "v"), (Action::CutReply, "v")]
    {
        let key = format!("{action:?}-key");
        let rule = line.on(Requests::with(&key), 0, action);
        let put = ctl(over.clone(), &["put", &key, "v"]).await;
        assert_eq!(put.status.success(), action == Action::Pass, "{action:?}: {put:?}");
        assert_eq!(rule.is_struck(), action != Action::Pass, "{action:?}");
        let got = ctl(client_url.clone(), &["get", &key, "--print-value-only"]).await;
        assert_eq!(String::from_utf8(got.stdout).unwrap().trim(), value, "{action:?}");
    }
}

/// A frame of ZooKeeper.
fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

async fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    within("a frame", stream.read_exact(&mut length)).await?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    within("a frame", stream.read_exact(&mut body)).await?;
    Ok(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeepers_pings_are_no_requests() {
    let (folder, port) = (TempDir::new().unwrap(), free_port());
    let data = folder.path().display();
    let settings = format!(
        "tickTime=200\ndataDir={data}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\nminSessionTimeout=400\nmaxSessionTimeout=60000\n4lw.commands.whitelist=srvr\n"
    );
    let file = folder.path().join("zoo.cfg");
    std::fs::write(&file, settings).unwrap();
    let classes = "/etc/zookeeper/conf:/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar";
    let file = file.display().to_string();
    let words = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classes];
    let words = words.into_iter().chain(["org.apache.zookeeper.server.quorum.QuorumPeerMain", &file]);
    // It listens before it serves.
    let ready = || {
        use std::io::{Read, Write};
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut said = String::new();
        stream.write_all(b"srvr").and_then(|()| stream.read_to_string(&mut said)).is_ok() && said.contains("Mode:")
    };
    let _server = Server::start(words.map(String::from).collect(), "apt-get install zookeeper", ready);
    let line = Proxy::tcp(Framing::ZooKeeper, format!("127.0.0.1:{port}")).await.unwrap();
    let all = line.count(Requests::all());

    let session = async || {
        let mut stream = TcpStream::connect(line.address()).await.unwrap();
        // Protocol, last zxid, timeout, session, password.
        let hello = [&[0; 4][..], &[0; 8], &30_000_u32.to_be_bytes(), &[0; 8], &16_u32.to_be_bytes(), &[0; 16]];
        stream.write_all(&frame(&hello)).await.unwrap();
        assert!(read_frame(&mut stream).await.unwrap().len() >= 36);
        stream
    };
    let ping = frame(&[&(-2_i32).to_be_bytes(), &11_u32.to_be_bytes()]);
    // exists("/zookeeper"), without a watch.
    let exists = |xid: i32| {
        let path = b"/zookeeper";
        let length = u32::try_from(path.len()).unwrap().to_be_bytes();
        frame(&[&xid.to_be_bytes(), &3_u32.to_be_bytes(), &length, path, &[0]])
    };
    let mut stream = session().await;
    stream.write_all(&ping).await.unwrap();
    assert_eq!(read_frame(&mut stream).await.unwrap()[..4], (-2_i32).to_be_bytes());
    assert_eq!(all.seen(), 0, "a ping was counted");
    stream.write_all(&exists(1)).await.unwrap();
    assert_eq!(read_frame(&mut stream).await.unwrap()[..4], 1_i32.to_be_bytes());
    assert_eq!(all.seen(), 1);
    let lost = line.on(Requests::with("/zookeeper"), 0, Action::LoseReply);
    // The ping behind it is not taken for its reply.
    stream.write_all(&[ping.clone(), exists(2)].concat()).await.unwrap();
    assert_eq!(read_frame(&mut stream).await.unwrap()[..4], (-2_i32).to_be_bytes());
    assert!(read_frame(&mut stream).await.is_err());
    assert!(lost.is_struck());
    stream = session().await;
    stream.write_all(&exists(3)).await.unwrap();
    assert_eq!(read_frame(&mut stream).await.unwrap()[..4], 3_i32.to_be_bytes());
}
