//! The scripts: one for each operation.

use redis::Script;

/// All scripts, with their hashes.
#[derive(Clone, Debug)]
pub(crate) struct Scripts {
    pub(crate) acquire: Script,
    pub(crate) renew: Script,
    pub(crate) remove: Script,
    pub(crate) inspect: Script,
}

impl Scripts {
    pub(crate) fn new() -> Self {
        let script =
            |usual: &str, body: &str| Script::new(&format!("{usual}{}{body}", include_str!("scripts/common.lua")));
        Self {
            acquire: script(include_str!("scripts/acquire_usual.lua"), include_str!("scripts/acquire.lua")),
            renew: script("", include_str!("scripts/renew.lua")),
            remove: script(include_str!("scripts/remove_usual.lua"), include_str!("scripts/remove.lua")),
            inspect: script("", include_str!("scripts/inspect.lua")),
        }
    }
}
