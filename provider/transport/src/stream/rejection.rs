//! Which side of a connection did not accept the other, and why.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustls::AlertDescription;

/// QUIC's codes for TLS alerts begin here.
const QUIC_ALERTS: std::ops::Range<u64> = 0x100..0x200;

/// Why one side did not accept the other, if that is what an error is about. Under TLS 1.3 a caller whose certificate is
/// refused learns of it after its own handshake, by what it reads first.
pub(crate) fn rejection(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        // What an I/O error holds is not among its sources.
        return rejection(error.get_ref()?);
    }
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return match error {
            rustls::Error::AlertReceived(alert) => Some(refused_by_server(u8::from(*alert))),
            rustls::Error::InvalidCertificate(why) => Some(refused_by_caller(why)),
            rustls::Error::NoApplicationProtocol => Some("it speaks another protocol".to_owned()),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<wtransport::error::ConnectingError>() {
        return web_rejection(error);
    }
    match error.downcast_ref::<quinn::ConnectionError>() {
        Some(quinn::ConnectionError::ConnectionClosed(close)) => quic_alert(close.error_code).map(refused_by_server),
        Some(quinn::ConnectionError::TransportError(error)) if quic_alert(error.code).is_some() => {
            Some(refused_by_caller(&error.reason))
        }
        _ => rejection(error.source()?),
    }
}

/// This crate keeps QUIC's error to itself, and shows its text alone.
fn web_rejection(error: &wtransport::error::ConnectingError) -> Option<String> {
    use wtransport::error::{ConnectingError, ConnectionError};
    let alert = |text: &str| {
        let (_, code) = text.rsplit_once("handshake failed: error ")?;
        code.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    match error {
        ConnectingError::ConnectionError(ConnectionError::ConnectionClosed(close)) => {
            alert(&close.to_string()).map(refused_by_server)
        }
        ConnectingError::ConnectionError(ConnectionError::QuicProto(error)) => {
            let text = error.to_string();
            text.contains("certificate").then(|| refused_by_caller(&text))
        }
        ConnectingError::SessionRejected => Some("it serves nothing on that path".to_owned()),
        _ => None,
    }
}

fn quic_alert(code: quinn::TransportErrorCode) -> Option<u8> {
    let code = u64::from(code);
    QUIC_ALERTS
        .contains(&code)
        .then(|| u8::try_from(code - QUIC_ALERTS.start).ok())
        .flatten()
}

fn refused_by_server(alert: u8) -> String {
    match AlertDescription::from(alert) {
        AlertDescription::CertificateRequired => {
            "it requires a certificate that its authority for callers has signed, and this caller shows none".to_owned()
        }
        AlertDescription::NoApplicationProtocol => "it speaks another protocol".to_owned(),
        alert => format!("it refused this caller's certificate ({alert:?})"),
    }
}

fn refused_by_caller(why: &dyn fmt::Display) -> String {
    format!("its certificate is not accepted here: {why}")
}
