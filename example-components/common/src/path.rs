//! The path of a request.

use percent_encoding::percent_decode_str;

/// The segments of a path, percent-decoded; nothing if one of them is no UTF-8.
///
/// `/a/b%2Fc` has two segments, and so does `/a/`: the second is empty.
pub fn segments(path: &str) -> Option<Vec<String>> {
    path.strip_prefix('/')?
        .split('/')
        .map(|segment| Some(percent_decode_str(segment).decode_utf8().ok()?.into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_before_it_is_decoded() {
        let check =
            |path, expected: Option<&[&str]>| assert_eq!(segments(path).as_deref(), expected.map(to_owned).as_deref());
        fn to_owned(segments: &[&str]) -> Vec<String> {
            segments.iter().map(|segment| segment.to_string()).collect()
        }
        check("/", Some(&[""]));
        check("/a/b", Some(&["a", "b"]));
        check("/a/", Some(&["a", ""]));
        check("/a/b%2Fc%20d", Some(&["a", "b/c d"]));
        check("/a/%zz", Some(&["a", "%zz"]));
        check("/a/%ff", None);
        check("", None);
        check("a/b", None);
    }
}
