//! Where the parts of an event may be taken from: what no signature covers decides nothing, or a setting says that it
//! does.

use webhook_signature::{Coverage, Scheme};

use crate::{
    defaults::{self, SIGNED_FIELDS},
    place::{Place, Places},
};

pub(super) fn read_places(scheme: Option<Scheme>, text: &str, allowed: &[&str]) -> Result<Places, String> {
    let places: Places = text.parse().map_err(str::to_owned)?;
    // The header that a signature covers is what the signature proves, under whichever of its names it came.
    let places = places.map(|place| match (scheme, place) {
        (Some(scheme), Place::Header(name)) if defaults::id_headers(scheme).contains(&name.as_str()) => Place::SignedId,
        (_, place) => place,
    });
    for place in places.iter() {
        if !allowed.contains(&place.kind()) {
            return Err(format!("can't be {}, but {}", place.kind(), allowed.join(" or ")));
        }
        if *place == Place::SignedId && scheme.is_some_and(|scheme| !scheme.covers_id()) {
            return Err("can't be signed-id: the scheme signs no id beside the body".to_owned());
        }
    }
    if scheme.is_some_and(|scheme| scheme.coverage() == Coverage::Items) {
        let signed = |place: &Place| match place {
            Place::Pointer(pointer) => SIGNED_FIELDS.contains(&pointer.as_str()),
            Place::Constant(_) | Place::Path | Place::Key => true,
            _ => false,
        };
        if !places.iter().all(signed) {
            let fields = SIGNED_FIELDS.join(", ");
            return Err(format!("is not signed: the scheme signs only {fields} of an item"));
        }
    }
    Ok(places)
}

/// Whether a place is in the request and outside of everything that a signature covers.
pub(super) fn is_of_the_request(place: &Place) -> bool {
    matches!(place, Place::Path | Place::Header(_))
}

pub(super) const TYPE: &str = "event-type";
pub(super) const ID: &str = "event-id";
pub(super) const TIME: &str = "event-time";

/// What is wrong with places that somebody decides who holds no key.
pub(super) fn unsigned_problem(scheme: Scheme, part: &str, places: &Places) -> Option<String> {
    if scheme.coverage() == Coverage::Sender {
        return None;
    }
    let type_headers = defaults::type_headers(scheme);
    let is_of_type = |name: &str| type_headers.contains(&name);
    // A type that only a header names may be in the id too, beside something that is signed: there is one id for each type.
    let excused = |joined: &[Place], name: &str| match part {
        TYPE => is_of_type(name),
        ID => {
            is_of_type(name)
                && joined
                    .iter()
                    .any(|place| !is_of_the_request(place) && !is_constant(place))
        }
        _ => false,
    };
    for joined in places.alternatives() {
        for place in joined {
            if let Place::Header(name) = place
                && !excused(joined, name.as_str())
            {
                return Some(format!(
                    "is in a header that no signature covers: whoever posts a captured webhook again chooses it; take it \
                     from what is signed, or accept that with trust-unsigned: {part}"
                ));
            }
        }
    }
    None
}

pub(super) fn is_constant(place: &Place) -> bool {
    matches!(place, Place::Constant(_))
}

/// The parts of an event that may come from where nothing is signed.
pub(super) fn read_trusted(text: &str) -> Result<Vec<&'static str>, String> {
    let part = |text: &str| [TYPE, ID, TIME].into_iter().find(|part| *part == text.trim());
    text.split(',')
        .map(part)
        .collect::<Option<_>>()
        .ok_or_else(|| format!("is no list of {TYPE}, {ID} and {TIME}, separated by commas"))
}

pub(super) fn read_time(scheme: Option<Scheme>, text: &str) -> Result<Option<Places>, String> {
    if text == "none" {
        return Ok(None);
    }
    let places = read_places(scheme, text, &["pointer", "root", "header"])?;
    if places.alternatives().any(|joined| joined.len() > 1) {
        return Err("can't be joined from several places".to_owned());
    }
    Ok(Some(places))
}
