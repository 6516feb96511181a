//! Which store, and the connection to it.

use crate::cli::StoreArgs;
use crate::exit::{CONFIG, Failure};
use dlocks::{Config, Locks, StoreUrl};

/// Connects to the store that the command line, `--url-file` or `DLOCK_URL` names, or to the file in the user's state folder.
pub(crate) async fn connect(store: &StoreArgs, label: Option<String>) -> Result<Locks, Failure> {
    let mut config = Config::new(url(store)?);
    config.prefix = store.prefix.clone();
    config.label = label;
    Ok(dlocks::registry().connect_with(&config).await?)
}

/// The store's URL. A file's counts before the others: it can't come from the environment.
pub(crate) fn url(store: &StoreArgs) -> Result<StoreUrl, Failure> {
    if let Some(path) = &store.url_file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(CONFIG, format!("--url-file {}: {error}", path.display())))?;
        return Ok(text.trim().parse()?);
    }
    match &store.url {
        Some(url) => Ok(url.parse()?),
        None => default_url(),
    }
}

#[cfg(feature = "local")]
fn default_url() -> Result<StoreUrl, Failure> {
    use std::path::PathBuf;
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let Some(state) = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state"))) else {
        return Err(Failure::new(CONFIG, "no store is given, and there is no home folder; set DLOCK_URL or --url"));
    };
    let folder = state.join("dlock");
    std::fs::create_dir_all(&folder).map_err(|error| {
        let message = format!("{} can't be made: {error}; set DLOCK_URL or --url", folder.display());
        Failure::new(CONFIG, message)
    })?;
    let path = folder.join("locks.db");
    let Some(path) = path.to_str() else {
        return Err(Failure::new(CONFIG, "the state folder's name is not UTF-8; set DLOCK_URL or --url"));
    };
    let escaped = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    Ok(format!("local:{escaped}").parse()?)
}

#[cfg(not(feature = "local"))]
fn default_url() -> Result<StoreUrl, Failure> {
    Err(Failure::new(CONFIG, "no store is given; set DLOCK_URL or --url (this build has no local store)"))
}
