//! A runner as a service of a workload.

use std::convert::Infallible;
use std::path::PathBuf;

use fanout_component::over_http::OverHttp;
use fanout_component::settings::variable;
use fanout_component::{Bus, Settings};

use crate::attempts::Attempts;
use crate::plan::Plan;
use crate::runner::{Runner, Subscriber};

/// A setting is missing or wrong; a line of the log says which.
#[derive(Clone, Copy, Debug)]
pub struct Misconfigured;

/// Delivers for as long as the host lets it. A service that is configured wrong ends, with a line that says what.
///
/// # Errors
/// When a setting is missing or wrong.
pub fn serve(subscriber: impl Subscriber) -> Result<Infallible, Misconfigured> {
    let failed = |message: &str| {
        eprintln!("nothing is delivered: {message}");
        Misconfigured
    };
    let settings = Settings::from_environment().map_err(|failure| failed(&failure.problem.message))?;
    let plan = Plan::read(variable).map_err(|message| failed(&message))?;
    let folder = variable("FANOUT_ATTEMPTS").map(PathBuf::from);
    let attempts = Attempts::load(folder).map_err(|error| {
        failed(&format!(
            "FANOUT_ATTEMPTS names no folder that can be written to: {error}: mount a volume there"
        ))
    })?;
    let deadline = settings.deadline;
    let mut runner = Runner::new(Bus::new(OverHttp::new(settings), deadline), subscriber, plan, attempts);
    loop {
        runner.turn();
    }
}
