//! One suite for all transports: a short caller each.

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod hostile;
mod http;
mod http_hostile;
mod lattice;
mod listening;
mod security;
mod stock;
mod stock_peer;
mod suite;
mod windows;

use listening::Listening;
use suite::laws;

mod tcp {
    crate::laws!(crate::Listening::new("tcp://127.0.0.1:0"));
}

mod unix {
    crate::laws!(crate::Listening::unix());
}

mod tls {
    crate::laws!(crate::Listening::new("tls://127.0.0.1:0"));
}

mod quic {
    crate::laws!(crate::Listening::new("quic://127.0.0.1:0"));
}

mod webtransport {
    crate::laws!(crate::Listening::new("webtransport://127.0.0.1:0/bus"));
}

mod over_http {
    crate::laws!(crate::Listening::new("http://127.0.0.1:0"));
}

mod over_https {
    crate::laws!(crate::Listening::new("https://127.0.0.1:0"));
}

/// The target of a call on the lattice does not learn that its caller gave up.
mod on_the_lattice {
    crate::laws!(crate::lattice::OnLattice::new();
        sizes errors many deadlines drain cut_off reconnect caller busy);
}
