//! Fencing in Redis: a write that comes too late is refused by the server that it goes to.
//!
//! Check and write are one script: nothing comes in between. This module gives the script's text, and reads the refusal;
//! run it with whatever client the program has.
//!
//! ```no_run
//! # fn write(connection: &mut redis::Connection, guard: &dlock_core::Held) -> Result<(), Box<dyn std::error::Error>> {
//! let script = redis::Script::new(&dlock_redis::fence::script("return redis.call('SET', KEYS[2], ARGV[2])"));
//! let mut write = script.key("{account:7}:fence");
//! let written: redis::RedisResult<()> =
//!     write.key("{account:7}").arg(guard.token().0).arg(250).invoke(connection);
//! if let Err(error) = written {
//!     match dlock_redis::fence::refusal(&error) {
//!         Some(stale) => return Err(stale.into()), // a later holder was here: change nothing
//!         None => return Err(error.into()),
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use dlock_core::FencingToken;
use dlock_core::fence::StaleToken;
use std::fmt::Display;

/// The text of a Lua script that admits a token and then runs `write`, or refuses a stale one and runs nothing.
///
/// `KEYS[1]` is the resource's fence, a key of its own without TTL; `ARGV[1]` is the holder's token in decimal. `write` is Lua: its
/// own keys and arguments begin at 2, and what it returns the script returns. In a cluster all keys need the same `{tag}`. A
/// script that fails in the middle of `write` is not undone; its fence stays raised, which is harmless.
///
/// The fence lives as long as what it guards: a server that loses both lets any token in, and one that loses the fence alone (a
/// key that is evicted) as well.
pub fn script(write: &str) -> String {
    format!("{}{write}\n", include_str!("scripts/fence.lua"))
}

/// The refusal of a script of [`script`], in the error of any client; `None` for any other error.
pub fn refusal(error: &impl Display) -> Option<StaleToken> {
    let text = error.to_string();
    let (_, numbers) = text.split_once("STALETOKEN")?;
    let mut numbers = numbers.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
    Some(StaleToken { token: FencingToken(numbers.next()?), highest: FencingToken(numbers.next()?) })
}
