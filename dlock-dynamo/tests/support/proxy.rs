//! [`Proxy`]: between client and server, for lost replies, throttling and clocks that are wrong.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `PutItem`.
    pub(crate) operation: String,
    /// When it was signed, as `20260131T235959Z`.
    pub(crate) signed: String,
    pub(crate) body: String,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Pass,
    /// Refused with status and code, and never passed on.
    Refuse(u16, &'static str),
    /// Carried out; the connection ends without a reply.
    LoseReply,
    /// Carried out twice; the second reply comes back.
    Twice,
    /// Never carried out; the connection ends.
    Reset,
    /// Kept, and carried out once the receiver is told; the connection ends at once.
    Later(Arc<tokio::sync::Notify>),
}

type Act = Box<dyn FnMut(&Request) -> Action + Send>;

struct Shared {
    server: u16,
    act: Mutex<Act>,
    ahead: AtomicI64,
    log: Mutex<Vec<Request>>,
}

pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let act: Act = Box::new(|_| Action::Pass);
        let shared = Arc::new(Shared { server, act: Mutex::new(act), ahead: AtomicI64::new(0), log: Mutex::default() });
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let shared = shared.clone();
                    // A client that goes away ends its connection, and no test by that.
                    tokio::spawn(async move { serve(client, shared).await });
                }
            }
        });
        Self { port, shared, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("dynamodb://test:secret@locks?endpoint=http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn act(&self, act: impl FnMut(&Request) -> Action + Send + 'static) {
        *self.shared.act.lock().unwrap() = Box::new(act);
    }

    /// From now on the server's clock shows so many seconds more.
    pub(crate) fn set_ahead(&self, seconds: i64) {
        self.shared.ahead.store(seconds, Ordering::SeqCst);
    }

    /// The requests since the last call.
    pub(crate) fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.log.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Message {
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (header, value) = line.split_once(':')?;
            header.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    fn bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), b"\r\n\r\n", &self.body].concat()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Message> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut message = Message { head: String::from_utf8(bytes[..end].to_vec()).ok()?, body: bytes[end + 4..].to_vec() };
    let length: usize = message.header("content-length").unwrap_or("0").parse().ok()?;
    while message.body.len() < length {
        if stream.read_buf(&mut message.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(message)
}

async fn forward(request: &Message, shared: &Shared) -> Option<Message> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.server)).await.ok()?;
    server.write_all(&request.bytes()).await.ok()?;
    read(&mut server).await
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>) -> Option<()> {
    loop {
        let request = read(&mut client).await?;
        let seen = Request {
            operation: request.header("x-amz-target")?.rsplit('.').next()?.to_owned(),
            signed: request.header("x-amz-date")?.to_owned(),
            body: String::from_utf8_lossy(&request.body).into_owned(),
        };
        shared.log.lock().unwrap().push(seen.clone());
        let action = (shared.act.lock().unwrap())(&seen);
        let reply = match action {
            Action::Pass => forward(&request, &shared).await?,
            Action::Refuse(status, code) => refusal(status, code),
            Action::Twice => {
                forward(&request, &shared).await?;
                forward(&request, &shared).await?
            }
            Action::LoseReply => {
                forward(&request, &shared).await?;
                return None;
            }
            Action::Reset => return None,
            Action::Later(when) => {
                tokio::spawn(async move {
                    when.notified().await;
                    forward(&request, &shared).await;
                    when.notify_one();
                });
                return None;
            }
        };
        client.write_all(&with_clock(reply, shared.ahead.load(Ordering::SeqCst)).bytes()).await.ok()?;
    }
}

fn refusal(status: u16, code: &str) -> Message {
    let body =
        format!("{{\"__type\":\"com.amazonaws.dynamodb.v20120810#{code}\",\"message\":\"as the test wants it\"}}");
    let date = aws_sdk_dynamodb::primitives::DateTime::from(std::time::SystemTime::now());
    let date = date.fmt(aws_sdk_dynamodb::primitives::DateTimeFormat::HttpDate).unwrap();
    // Whole seconds, as servers give them.
    let date = date.split_once('.').map_or(date.clone(), |(whole, _)| format!("{whole} GMT"));
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Refused\r\ncontent-type: application/x-amz-json-1.0\r\ndate: {date}\r\ncontent-length: {length}"
    );
    Message { head, body: body.into_bytes() }
}

fn with_clock(mut reply: Message, ahead: i64) -> Message {
    use aws_sdk_dynamodb::primitives::{DateTime, DateTimeFormat::HttpDate};
    if ahead != 0 {
        let lines = reply.head.lines().map(|line| match line.split_once(':') {
            Some((name, date)) if name.eq_ignore_ascii_case("date") => {
                let shown = DateTime::from_str(date.trim(), HttpDate).unwrap();
                format!("date: {}", DateTime::from_secs(shown.secs() + ahead).fmt(HttpDate).unwrap())
            }
            _ => line.to_owned(),
        });
        reply.head = lines.collect::<Vec<_>>().join("\r\n");
    }
    reply
}
