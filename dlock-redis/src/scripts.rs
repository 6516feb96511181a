//! The scripts that do one operation, in any case: what `usual.lua` leaves to them.

use crate::keys::Keys;
use redis::{Cmd, Script};

/// These scripts, with their hashes.
pub(crate) struct Scripts {
    pub(crate) acquire: Script,
    pub(crate) renew: Script,
    pub(crate) remove: Script,
    pub(crate) inspect: Script,
    pub(crate) list: Script,
}

impl Scripts {
    pub(crate) fn new() -> Self {
        let script = |body: &str| Script::new(&[include_str!("scripts/common.lua"), body].concat());
        Self {
            acquire: script(include_str!("scripts/acquire.lua")),
            renew: script(include_str!("scripts/renew.lua")),
            remove: script(include_str!("scripts/remove.lua")),
            inspect: script(include_str!("scripts/inspect.lua")),
            list: Script::new(include_str!("scripts/list.lua")),
        }
    }
}

/// A call of a script, to which its arguments are added. In place of `redis::ScriptInvocation`, which keeps
/// each key and argument in a vector of its own before it writes the command.
pub(crate) struct Call<'a> {
    pub(crate) script: &'a Script,
    pub(crate) command: Cmd,
}

impl<'a> Call<'a> {
    /// A call with the lock's five keys, and as a sixth what is remembered of a withdrawn id.
    pub(crate) fn new(script: &'a Script, keys: &Keys, gone: Option<&str>) -> Self {
        /// Room for the keys' endings, an id, a label and numbers.
        const ROOM: usize = 512;
        let mut command = Cmd::with_capacity(17, 6 * keys.lock().len() + ROOM);
        command.arg("EVALSHA").arg(script.get_hash()).arg(if gone.is_some() { 6 } else { 5 }).arg(keys.lock());
        keys.each_beside(|name| {
            command.arg(name);
        });
        if let Some(id) = gone {
            command.arg(keys.gone(id));
        }
        Self { script, command }
    }

    /// A call that looks at `page` of all keys, for the locks whose names begin with `start`.
    pub(crate) fn list(script: &'a Script, page: u64, start: &str) -> Self {
        let mut command = Cmd::new();
        command.arg("EVALSHA").arg(script.get_hash()).arg(0).arg(page).arg(start);
        Self { script, command }
    }
}

/// By itself it would be the text of them all.
impl std::fmt::Debug for Scripts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scripts").finish_non_exhaustive()
    }
}
