//! dlocks
