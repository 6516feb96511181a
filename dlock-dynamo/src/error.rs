//! From the service's errors to ours.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use dlock_core::{Effect, Error, ErrorKind};
use std::error::Error as StdError;
use std::io;

/// A refusal of any operation.
pub(crate) trait Refusal: ProvideErrorMetadata + StdError + Send + Sync + 'static {}

impl<E: ProvideErrorMetadata + StdError + Send + Sync + 'static> Refusal for E {}

/// The service has no room for the request now, and did not carry it out.
pub(crate) fn is_throttled(code: &str) -> bool {
    matches!(
        code,
        "ProvisionedThroughputExceededException"
            | "ThrottlingException"
            | "Throttling"
            | "RequestLimitExceeded"
            | "TooManyRequestsException"
            | "SlowDown"
            // Another transaction, or another region's write, has the item for a moment.
            | "TransactionConflictException"
            | "ReplicatedWriteConflictException"
    )
}

/// The request was signed with a clock that is wrong.
pub(crate) fn is_skewed(code: &str) -> bool {
    matches!(
        code,
        "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "RequestTimeTooSkewed"
            | "RequestExpired"
            | "RequestInTheFuture"
            | "AuthFailure"
    )
}

/// What a refusal is to us by its code and HTTP status, and whether the request may have been carried out.
pub(crate) fn classify(code: &str, status: u16) -> (ErrorKind, Effect) {
    let kind = match code {
        _ if is_throttled(code) => ErrorKind::Unavailable,
        "ResourceNotFoundException" => ErrorKind::InvalidConfig,
        "AccessDeniedException"
        | "UnrecognizedClientException"
        | "IncompleteSignatureException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "InvalidClientTokenId"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "NotAuthorized"
        | "OptInRequired" => ErrorKind::Unauthorized,
        _ if is_skewed(code) => ErrorKind::Unauthorized,
        "ValidationException" => ErrorKind::InvalidConfig,
        // The service does not say what has become of it.
        _ if status >= 500 => return (ErrorKind::Unavailable, Effect::Unknown),
        _ => ErrorKind::Unexpected,
    };
    (kind, Effect::NotApplied)
}

/// The code of a refusal; empty if it was none, or had none.
pub(crate) fn code<E: Refusal>(error: &SdkError<E>) -> &str {
    match error {
        SdkError::ServiceError(refusal) => refusal.err().code().unwrap_or_default(),
        _ => "",
    }
}

/// The error of a request. `was_sent`: whether it may have left this machine; `advice`: how the table is made.
pub(crate) fn from_sdk<E: Refusal>(error: SdkError<E>, was_sent: bool, advice: &str) -> Error {
    let (kind, effect) = match &error {
        SdkError::ServiceError(refusal) => classify(code(&error), refusal.raw().status().as_u16()),
        SdkError::ConstructionFailure(_) => (ErrorKind::Unexpected, Effect::NotApplied),
        _ if is_refused(&error) => (ErrorKind::Unavailable, Effect::NotApplied),
        // Nothing was sent: there were no credentials to sign it with.
        _ if !was_sent => (unsigned(&error), Effect::NotApplied),
        _ => (ErrorKind::Unavailable, Effect::Unknown),
    };
    let message = match (kind, code(&error)) {
        (ErrorKind::Unauthorized, "AccessDeniedException") => {
            format!("these credentials lack a right; they need {} on the table", crate::RIGHTS.join(", "))
        }
        (ErrorKind::Unauthorized, code) if is_skewed(code) => {
            "the service refused the signature: the secret key is wrong, or this machine's clock is".to_owned()
        }
        (ErrorKind::Unauthorized, _) => {
            "the service refused the credentials, or there are none; look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and \
             AWS_SESSION_TOKEN"
                .to_owned()
        }
        (ErrorKind::InvalidConfig, "ResourceNotFoundException") => {
            format!("the table of locks is missing, or is not active yet; {advice}")
        }
        (ErrorKind::InvalidConfig, _) => format!("the table is no table of locks; {advice}"),
        (ErrorKind::Unavailable, code) if is_throttled(code) => {
            "the service throttles the table; give it on-demand capacity or more write units".to_owned()
        }
        (ErrorKind::Unavailable, _) => "the service did not answer, or can't now".to_owned(),
        _ => "the service answered with an error".to_owned(),
    };
    // The text of the chain, without the reply itself: that may be long, and has what others stored.
    Error::new(kind, message).with_effect(effect).with_source(told(&error))
}

/// What an error and its sources say, and the service.
fn told<E: Refusal>(error: &SdkError<E>) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    match error {
        SdkError::ServiceError(refusal) => match refusal.err().message() {
            Some(message) if !text.contains(message) => format!("{text}: {message}"),
            _ => text,
        },
        _ => text,
    }
}

/// Why there were no credentials: there are none, or their provider can't be reached now.
fn unsigned(error: &(dyn StdError + 'static)) -> ErrorKind {
    use aws_credential_types::provider::error::CredentialsError::{CredentialsNotLoaded, InvalidConfiguration};
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref() {
            Some(CredentialsNotLoaded(_) | InvalidConfiguration(_)) => return ErrorKind::Unauthorized,
            Some(_) => return ErrorKind::Unavailable,
            None => next = error.source(),
        }
    }
    ErrorKind::Unauthorized
}

/// Nobody listens there.
fn is_refused(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        next = error.source();
    }
    false
}

/// The error of a request that was not answered in time.
pub(crate) fn no_answer(was_sent: bool) -> Error {
    let effect = if was_sent { Effect::Unknown } else { Effect::NotApplied };
    Error::new(ErrorKind::Unavailable, "the service gave no answer in time").with_effect(effect)
}

/// The error of an item that is no lock's.
pub(crate) fn corrupt(what: &str) -> Error {
    let message = format!("the item of this key is no lock: {what}; look at it, and remove it if nobody needs it");
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_credential_types::provider::error::CredentialsError;

    #[test]
    fn credentials_that_can_not_be_had_now_are_asked_for_again() {
        for (error, kind) in [
            (CredentialsError::not_loaded("none"), ErrorKind::Unauthorized),
            (CredentialsError::invalid_configuration("a loop"), ErrorKind::Unauthorized),
            (CredentialsError::provider_error("503"), ErrorKind::Unavailable),
            (CredentialsError::provider_timed_out(std::time::Duration::from_secs(5)), ErrorKind::Unavailable),
        ] {
            assert_eq!(unsigned(&error), kind);
        }
    }

    #[test]
    fn each_refusal_has_its_kind_and_effect() {
        for (code, status, kind, effect) in [
            ("ThrottlingException", 400, ErrorKind::Unavailable, Effect::NotApplied),
            ("ProvisionedThroughputExceededException", 400, ErrorKind::Unavailable, Effect::NotApplied),
            ("RequestLimitExceeded", 400, ErrorKind::Unavailable, Effect::NotApplied),
            ("InternalServerError", 500, ErrorKind::Unavailable, Effect::Unknown),
            ("", 503, ErrorKind::Unavailable, Effect::Unknown),
            ("AccessDeniedException", 400, ErrorKind::Unauthorized, Effect::NotApplied),
            ("UnrecognizedClientException", 400, ErrorKind::Unauthorized, Effect::NotApplied),
            ("ResourceNotFoundException", 400, ErrorKind::InvalidConfig, Effect::NotApplied),
            ("SomethingElse", 400, ErrorKind::Unexpected, Effect::NotApplied),
        ] {
            assert_eq!(classify(code, status), (kind, effect), "{code} {status}");
        }
    }
}
