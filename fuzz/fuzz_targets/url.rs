//! A store's URL: never a panic, never a secret shown, and what is read is the same as what is shown and read again.
#![no_main]

use dlock_core::{Config, Registry, StoreUrl};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"));

fuzz_target!(|text: &str| {
    let Ok(url) = text.parse::<StoreUrl>() else { return };
    let shown = format!("{url} {url:?}");
    // Short ones occur elsewhere by chance.
    if let Some(password) = url.password().filter(|password| password.len() > 12) {
        let params: Vec<_> =
            url.param_names().map(|name| format!("{name}={}", url.param(name).unwrap_or_default())).collect();
        let hosts: Vec<_> = url.hosts().iter().map(ToString::to_string).collect();
        let user = url.username().unwrap_or_default();
        let others = format!("{}://{user}@{}{}?{}", url.scheme(), hosts.join(","), url.path(), params.join("&"));
        assert!(others.contains(password) || !shown.contains(password), "the password is shown");
    }
    for name in url.param_names() {
        let _ = (url.duration(name), url.flag(name), url.parsed::<u64>(name));
    }
    assert_eq!(text.parse::<StoreUrl>().expect("read before"), url);
    // Whatever the settings are: an error, but no panic. The one scheme that this registry has would keep a store for each
    // name.
    if url.scheme() == "memory" {
        return;
    }
    let _ = RUNTIME.block_on(Registry::new().connect_with(&Config::new(url)));
});
