//! The fence at a resource that is an item of DynamoDB itself: a condition on your own write, so that a holder that was
//! paused past its lease can't overwrite its successor's work.
//!
//! The item keeps the largest token that wrote it, in a number attribute. [`Fence`] gives the parts of the request as plain
//! text, for whichever version of the client a program uses:
//!
//! ```
//! use dlock_core::FencingToken;
//! use dlock_dynamo::fence::Fence;
//!
//! let fence = Fence::exclusive("fence", FencingToken(42)); // `guard.token()`
//! assert_eq!(fence.condition(), "attribute_not_exists(#dlock_fence) OR #dlock_fence <= :dlock_token");
//! assert_eq!(fence.assignment(), Some("#dlock_fence = :dlock_token"));
//! assert_eq!(fence.names(), [("#dlock_fence", "fence")]);
//! assert_eq!(fence.numbers(), [(":dlock_token", "42".to_owned())]);
//! ```
//!
//! With the Rust client that is one `UpdateItem`:
//!
//! ```text
//! let mut update = client.update_item().table_name("invoices").key("id", AttributeValue::S("42".into()))
//!     .update_expression(format!("SET total = :total, {}", fence.assignment().unwrap()))
//!     .condition_expression(fence.condition())
//!     .expression_attribute_values(":total", AttributeValue::N("100".into()));
//! for (name, attribute) in fence.names() {
//!     update = update.expression_attribute_names(name, attribute);
//! }
//! for (name, number) in fence.numbers() {
//!     update = update.expression_attribute_values(name, AttributeValue::N(number));
//! }
//! update.send().await?; // ConditionalCheckFailedException: the token is stale, and nothing was written
//! ```
//!
//! A `PutItem` replaces the item: put the token into the new item under the same attribute, or the fence is gone. A condition
//! of your own goes in front as `(yours) AND (fence)`.

use dlock_core::FencingToken;

/// The condition of a fenced write, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    attribute: String,
    token: FencingToken,
    writes: bool,
}

impl Fence {
    /// For the holder of an exclusive lock, by its token. `attribute` is the name of a number attribute of the item, that
    /// nothing else uses.
    pub fn exclusive(attribute: impl Into<String>, token: FencingToken) -> Self {
        Self { attribute: attribute.into(), token, writes: true }
    }

    /// For a holder of a shared or permit lock, by the `fence_floor` of its guard: refused only if an exclusive holder
    /// that came after it has written. It leaves the fence as it is, since shared tokens do not order writers among
    /// themselves.
    pub fn shared(attribute: impl Into<String>, floor: FencingToken) -> Self {
        Self { attribute: attribute.into(), token: floor, writes: false }
    }

    /// The `ConditionExpression`, to be put in parentheses beside another.
    pub fn condition(&self) -> &'static str {
        "attribute_not_exists(#dlock_fence) OR #dlock_fence <= :dlock_token"
    }

    /// What goes into the `SET` of an `UpdateExpression`; `None` for a shared holder.
    pub fn assignment(&self) -> Option<&'static str> {
        self.writes.then_some("#dlock_fence = :dlock_token")
    }

    /// The `ExpressionAttributeNames`.
    pub fn names(&self) -> [(&'static str, &str); 1] {
        [("#dlock_fence", &self.attribute)]
    }

    /// The `ExpressionAttributeValues`, each of type `N`.
    pub fn numbers(&self) -> [(&'static str, String); 1] {
        [(":dlock_token", self.token.to_string())]
    }
}
