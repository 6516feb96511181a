//! P7 and P8: the server refuses the client, or the client the server.

use crate::case::declare;
use crate::env::{PATIENCE, within};
use crate::{Env, Fault, Need};
use dlock_core::{Error, ErrorKind, LockBackend, Result};
use std::sync::Arc;

declare! {
    p7_a_wrong_password_is_unauthorized_and_not_told [Need::Can(Fault::Password)];
    p8_a_certificate_that_nobody_vouches_for_is_refused [Need::Can(Fault::Tls)];
}

/// All that an error says, to people and to logs.
fn said(error: &Error) -> String {
    format!("{error} | {error:?} | {error:#?} | {}", error.chain())
}

async fn refused(what: &str, client: impl Future<Output = Result<Arc<dyn LockBackend>>>, secret: &str) -> Error {
    let error = within(PATIENCE, what, client).await.expect_err(what);
    let said = said(&error);
    assert!(!said.contains(secret), "the password is told: {said}");
    error
}

async fn p7_a_wrong_password_is_unauthorized_and_not_told(env: Env) {
    let secret = format!("secret{:016x}", rand::random::<u64>());
    let error = refused("a wrong password", env.harness.client_with_password(&secret), &secret).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", error.chain());
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("credentials"), "it does not say what to look at: {error}");
}

async fn p8_a_certificate_that_nobody_vouches_for_is_refused(env: Env) {
    let secret = format!("secret{:016x}", rand::random::<u64>());
    let error = refused("an unknown authority", env.harness.client_by_tls(&secret), &secret).await;
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unauthorized), "{}", error.chain());
    let chain = error.chain().to_string().to_lowercase();
    assert!(chain.contains("certificate"), "it does not say what is wrong: {chain}");
}
