//! Why a webhook was refused.

/// The check that failed. Its text may be shown to the sender: it holds no secret and no expected signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A header of the scheme is absent.
    #[error("the header `{header}` is missing")]
    MissingHeader {
        /// The header.
        header: &'static str,
    },
    /// A header of the scheme came more than once.
    #[error("the header `{header}` came more than once")]
    RepeatedHeader {
        /// The header.
        header: &'static str,
    },
    /// Headers came that say one thing under two names: what reads the one may not see the other.
    #[error("the headers `{header}` and `{other}` came both, and a webhook is signed by one of them")]
    MixedHeaders {
        /// The header.
        header: &'static str,
        /// The other one.
        other: &'static str,
    },
    /// A header does not have the form that the scheme prescribes.
    #[error("the header `{header}` is malformed: {problem}")]
    MalformedHeader {
        /// The header.
        header: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The header holds signatures, but none of a version that is verified.
    #[error("the header `{header}` has no `{version}` signature")]
    NoSupportedSignature {
        /// The header.
        header: &'static str,
        /// The version that is verified.
        version: &'static str,
    },
    /// The body does not have the form that the scheme prescribes.
    #[error("the body is malformed: {problem}")]
    MalformedBody {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A field of the body that the signature stands in, or is about, is absent.
    #[error("the body's field `{field}` is missing")]
    MissingField {
        /// The field.
        field: &'static str,
    },
    /// A field of the body came more than once.
    #[error("the body's field `{field}` came more than once")]
    RepeatedField {
        /// The field.
        field: &'static str,
    },
    /// A field of the body does not have the form that the scheme prescribes.
    #[error("the body's field `{field}` is malformed: {problem}")]
    MalformedField {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The scheme signs the URL, and it is not known.
    #[error("the signature covers the URL that the webhook was sent to, and it is not known here")]
    NoUrl,
    /// No active key made any of the signatures.
    #[error("no active key made this signature")]
    SignatureMismatch,
    /// No active key made the signature of one of several items.
    #[error("no active key made the signature of item {item}")]
    ItemMismatch {
        /// Which, from 1.
        item: usize,
    },
    /// A certificate does not lead to a root that is trusted, or not now.
    #[error("the certificate is not trusted: {problem}")]
    UntrustedCertificate {
        /// Why.
        problem: &'static str,
    },
    /// Signed too long ago.
    #[error("signed {age_s} s ago, and {tolerance_s} s are allowed")]
    Stale {
        /// How long ago.
        age_s: u64,
        /// How long ago is allowed.
        tolerance_s: u64,
    },
    /// Signed too far in the future: one of the two clocks is wrong.
    #[error("signed {ahead_s} s in the future, and {tolerance_s} s are allowed")]
    Future {
        /// How far ahead of now.
        ahead_s: u64,
        /// How far ahead is allowed.
        tolerance_s: u64,
    },
}

/// What a refusal says about the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request is not in the form of the scheme: nothing could be checked.
    Malformed,
    /// The request is not shown to come from a holder of a key.
    Unproven,
    /// The request comes from a holder of a key, at another time.
    OutOfTime,
}

impl Refusal {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::MissingHeader { .. } => "missing-header",
            Refusal::RepeatedHeader { .. } => "repeated-header",
            Refusal::MixedHeaders { .. } => "mixed-headers",
            Refusal::MalformedHeader { .. } => "malformed-header",
            Refusal::NoSupportedSignature { .. } => "no-supported-signature",
            Refusal::MalformedBody { .. } => "malformed-body",
            Refusal::MissingField { .. } => "missing-field",
            Refusal::RepeatedField { .. } => "repeated-field",
            Refusal::MalformedField { .. } => "malformed-field",
            Refusal::NoUrl => "unknown-url",
            Refusal::SignatureMismatch | Refusal::ItemMismatch { .. } => "signature-mismatch",
            Refusal::UntrustedCertificate { .. } => "untrusted-certificate",
            Refusal::Stale { .. } => "stale-timestamp",
            Refusal::Future { .. } => "future-timestamp",
        }
    }

    /// What it says about the sender.
    pub fn kind(&self) -> RefusalKind {
        match self {
            Refusal::RepeatedHeader { .. }
            | Refusal::MixedHeaders { .. }
            | Refusal::MalformedHeader { .. }
            | Refusal::MalformedBody { .. }
            | Refusal::RepeatedField { .. }
            | Refusal::MalformedField { .. } => RefusalKind::Malformed,
            Refusal::MissingHeader { .. }
            | Refusal::MissingField { .. }
            | Refusal::NoSupportedSignature { .. }
            | Refusal::NoUrl
            | Refusal::SignatureMismatch
            | Refusal::ItemMismatch { .. }
            | Refusal::UntrustedCertificate { .. } => RefusalKind::Unproven,
            Refusal::Stale { .. } | Refusal::Future { .. } => RefusalKind::OutOfTime,
        }
    }
}
