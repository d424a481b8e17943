//! What can go wrong, in words that say what to do.

/// An error that left the index as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument is wrong.
    #[error("{0}")]
    Invalid(String),
    /// An id is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// An id is unknown.
    #[error("{0}")]
    NotFound(String),
    /// A file does not hold what was written.
    #[error("{0}")]
    Corrupt(String),
    /// A file comes from a later version.
    #[error("{0}")]
    TooNew(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;
