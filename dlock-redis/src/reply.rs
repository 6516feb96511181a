//! What the scripts reply.

use crate::connection::not_understood;
use dlock_core::{FencingToken, HolderId, HolderInfo, LockInfo, LockKey, Mode, Result, WaiterInfo};
use redis::{FromRedisValue, Value};
use std::borrow::Cow;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

/// What `acquire` replies.
#[derive(Debug)]
pub(crate) enum Answer {
    Granted {
        token: FencingToken,
        floor: FencingToken,
    },
    /// It waits, and the waiter before it counts as gone so soon.
    Waiting(Seen, Option<Duration>),
    Held(Seen),
    Full(Seen),
    Gone,
    Withdrawn,
    Disagrees(Mode),
}

/// A lock as a reply shows it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) info: LockInfo,
    /// When the first of its holders expires; `None` if there is none, or a foreign one without a TTL.
    pub(crate) expires_in: Option<Duration>,
    /// Whether the holder is a foreign client, which tells nobody of its release.
    pub(crate) foreign: bool,
}

/// A mode with its limit, as the scripts are asked for it.
pub(crate) fn mode_text(mode: Mode) -> Cow<'static, str> {
    match mode {
        Mode::Exclusive => "x0".into(),
        Mode::Shared => "s0".into(),
        Mode::Permit { limit } => format!("p{limit}").into(),
    }
}

fn mode(letter: &str, limit: &str) -> Option<Mode> {
    match letter {
        "x" => Some(Mode::Exclusive),
        "s" => Some(Mode::Shared),
        "p" => Some(Mode::Permit { limit: limit.parse::<NonZeroU32>().ok()? }),
        _ => None,
    }
}

fn since(micros: &str) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + Duration::from_micros(micros.parse().ok()?))
}

/// Text of any bytes: a foreign client's value need not be UTF-8.
fn lossy(value: &Value) -> Option<String> {
    Vec::<u8>::from_redis_value_ref(value).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Text that the scripts themselves wrote.
fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn token(value: &Value) -> Option<FencingToken> {
    text(value)?.parse().ok().map(FencingToken)
}

fn list(value: &Value) -> Option<&[Value]> {
    if let Value::Array(items) = value { Some(items) } else { None }
}

impl Answer {
    pub(crate) fn read(key: &LockKey, reply: &Value) -> Result<Self> {
        Self::parse(key, reply).ok_or_else(|| not_understood("answer of a lock script"))
    }

    fn parse(key: &LockKey, reply: &Value) -> Option<Self> {
        if let Some(token) = token(reply) {
            return Some(Answer::Granted { token, floor: token });
        }
        let (answer, rest) = list(reply)?.split_first()?;
        Some(match (text(answer)?, rest) {
            ("granted", [granted, floor]) => Answer::Granted { token: token(granted)?, floor: token(floor)? },
            ("waiting", [before, rest @ ..]) => {
                let before = text(before)?.parse().ok().map(Duration::from_micros);
                Answer::Waiting(Seen::parse(key, rest)?, before)
            }
            ("held", rest) => Answer::Held(Seen::parse(key, rest)?),
            ("full", rest) => Answer::Full(Seen::parse(key, rest)?),
            ("gone", []) => Answer::Gone,
            ("withdrawn", []) => Answer::Withdrawn,
            ("disagrees", [letter, limit]) => Answer::Disagrees(mode(text(letter)?, text(limit)?)?),
            _ => return None,
        })
    }
}

impl Seen {
    pub(crate) fn read(key: &LockKey, reply: &Value) -> Result<Self> {
        list(reply).and_then(|parts| Self::parse(key, parts)).ok_or_else(|| not_understood("state of a lock"))
    }

    fn parse(key: &LockKey, parts: &[Value]) -> Option<Self> {
        let [value, pttl, fence, holders, waiters @ ..] = parts else { return None };
        let mut info = LockInfo::free(key.clone());
        info.last_token = last_token(fence)?;
        let expires_in = i64::from_redis_value_ref(pttl).ok().and_then(|millis| u64::try_from(millis).ok());
        let expires_in = expires_in.map(Duration::from_millis);
        let mut foreign = false;
        if let Some(value) = lossy(value).filter(|_| *value != Value::Nil)
            && list(holders)?.is_empty()
        {
            let ours = exclusive(&value);
            foreign = ours.is_none();
            let mut holder = ours.unwrap_or_else(|| HolderInfo::new(HolderId::from_store(value.as_str())));
            holder.remaining = expires_in;
            info.last_token = info.last_token.max(holder.token);
            info.holders.push(holder);
        }
        for part in list(holders)?.chunks(9) {
            let [id, left, granted, _floor, _ttl, begun, letter, limit, label] = part else { return None };
            let mut holder = HolderInfo::new(HolderId::from_store(lossy(id)?));
            holder.remaining = text(left)?.parse().ok().map(Duration::from_micros);
            holder.token = token(granted);
            holder.since = since(text(begun)?);
            holder.mode = mode(text(letter)?, text(limit)?);
            holder.label = lossy(label);
            info.holders.push(holder);
        }
        // The key itself lasts as long as the last of several holders.
        let expires_in = info.holders.iter().filter_map(|holder| holder.remaining).min().or(expires_in);
        info.holders.sort_by_key(|holder| holder.token);
        info.waiters = match waiters {
            // The answer of an acquisition does not name them.
            [] => None,
            [waiters] => Some(list(waiters)?.chunks(5).map(waiter).collect::<Option<_>>()?),
            _ => return None,
        };
        Some(Self { info, expires_in, foreign })
    }
}

/// The holder of an exclusive lock, from its value: `None` if that is a foreign client's.
fn exclusive(value: &str) -> Option<HolderInfo> {
    let mut parts = value.splitn(4, '|');
    let (id, granted, begun, label) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(())?;
    let mut holder = HolderInfo::new(HolderId::from_store(id));
    holder.mode = Some(Mode::Exclusive);
    holder.token = Some(FencingToken(granted.parse().ok()?));
    holder.since = Some(since(begun)?);
    holder.label = Some(label.to_owned());
    Some(holder)
}

/// The last token that a fence tells: none if it is not there, or knows none.
fn last_token(fence: &Value) -> Option<Option<FencingToken>> {
    if *fence == Value::Nil {
        return Some(None);
    }
    let number = text(fence)?.trim_end_matches("|w").parse().ok()?;
    Some((number > 0).then_some(FencingToken(number)))
}

fn waiter(part: &[Value]) -> Option<WaiterInfo> {
    let [id, letter, limit, begun, label] = part else { return None };
    let mut waiter = WaiterInfo::new(HolderId::from_store(lossy(id)?));
    waiter.mode = mode(text(letter)?, text(limit)?);
    waiter.since = since(text(begun)?);
    waiter.label = lossy(label);
    Some(waiter)
}
