//! Path templates: `/v1/endpoints/{id}/secrets/{secret_id}:expire`.
//!
//! The part of the `google.api.http` syntax that the protos use: literals,
//! variables of one segment, and a verb at the end. The rest (`*`, `**`,
//! `{name=…}`) is refused at start rather than half understood.

use std::fmt;

/// A template, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    segments: Vec<Segment>,
    verb: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// Holds the path of the field that the segment goes into.
    Variable(String),
}

/// The path of a request, split as templates are.
#[derive(Debug)]
pub(super) struct Path<'a> {
    segments: Vec<&'a str>,
    verb: Option<&'a str>,
}

impl Template {
    /// Reads a template, or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.strip_prefix('/').ok_or("must begin with a slash")?;
        let (path, verb) = split_verb(rest);
        if verb.is_some_and(|verb| !is_literal(verb)) {
            return Err("has a malformed verb");
        }
        let segments = path.split('/').map(segment).collect::<Result<_, _>>()?;
        Ok(Self { segments, verb: verb.map(str::to_owned) })
    }

    /// The variables with their values, percent-decoded, if the path fits.
    pub(super) fn matches<'t>(&'t self, path: &Path<'_>) -> Option<Vec<(&'t str, String)>> {
        if self.segments.len() != path.segments.len() || self.verb.as_deref() != path.verb {
            return None;
        }
        let mut variables = Vec::new();
        for (segment, &given) in self.segments.iter().zip(&path.segments) {
            match segment {
                Segment::Literal(literal) if literal == given => {}
                Segment::Variable(field) if !given.is_empty() => {
                    variables.push((field.as_str(), decode(given)));
                }
                Segment::Literal(_) | Segment::Variable(_) => return None,
            }
        }
        Some(variables)
    }

    /// The template with the segments of a path for its variables, so far as it has them.
    pub(super) fn filled(&self, path: &Path<'_>) -> String {
        let mut text = String::new();
        for (index, segment) in self.segments.iter().enumerate() {
            text.push('/');
            text.push_str(match segment {
                Segment::Literal(literal) => literal,
                Segment::Variable(_) => {
                    path.segments.get(index).copied().filter(|it| !it.is_empty()).unwrap_or("ID")
                }
            });
        }
        if let Some(verb) = &self.verb {
            text.push(':');
            text.push_str(verb);
        }
        text
    }

    /// The fields that the variables go into.
    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Variable(field) => Some(field.as_str()),
        })
    }
}

impl fmt::Display for Template {
    /// As people write it: `/v1/endpoints/ID/secrets/SECRET_ID:expire`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Variable(field) => {
                    let name = field.rsplit('.').next().unwrap_or_default();
                    write!(f, "/{}", name.to_ascii_uppercase())?;
                }
            }
        }
        self.verb.as_ref().map_or(Ok(()), |verb| write!(f, ":{verb}"))
    }
}

impl<'a> Path<'a> {
    /// Splits the path of a request. None unless it begins with a slash.
    pub(super) fn split(path: &'a str) -> Option<Self> {
        let (path, verb) = split_verb(path.strip_prefix('/')?);
        Some(Self { segments: path.split('/').collect(), verb })
    }
}

/// Cuts off `:verb`. Only the last segment can have one, and a colon inside a
/// variable's value must be percent-encoded there, so that no id can be mistaken
/// for an id with a verb.
fn split_verb(path: &str) -> (&str, Option<&str>) {
    match path.rfind(':') {
        Some(colon) if !path[colon..].contains('/') => (&path[..colon], Some(&path[colon + 1..])),
        _ => (path, None),
    }
}

fn segment(text: &str) -> Result<Segment, &'static str> {
    match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(field) if field.split('.').all(is_literal) => Ok(Segment::Variable(field.to_owned())),
        None if is_literal(text) => Ok(Segment::Literal(text.to_owned())),
        _ => Err("may hold only literals and variables of one segment"),
    }
}

fn is_literal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// Undoes percent-encoding. What is no valid escape, or does not make valid UTF-8,
/// stays as it is: it is then refused as a value, with the field's name.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = (byte == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        if let Some(decoded) = escape.and_then(|hex| hex::decode(hex).ok()) {
            out.extend(decoded);
            at += 3;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(template: &str, path: &str) -> Option<Vec<(String, String)>> {
        let template = Template::parse(template).unwrap();
        let found = template.matches(&Path::split(path)?)?;
        Some(found.into_iter().map(|(field, value)| (field.to_owned(), value)).collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        Some(pairs.iter().map(|&(field, value)| (field.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn literals_and_variables_match_whole_segments() {
        assert_eq!(find("/v1/endpoints", "/v1/endpoints"), pairs(&[]));
        assert_eq!(find("/v1/endpoints", "/v1/endpoint"), None);
        assert_eq!(find("/v1/endpoints", "/v1/endpoints/"), None);
        assert_eq!(find("/v1/endpoints/{id}", "/v1/endpoints/ep_1"), pairs(&[("id", "ep_1")]));
        assert_eq!(find("/v1/endpoints/{id}", "/v1/endpoints/"), None);
        assert_eq!(
            find("/v1/endpoints/{id}/secrets/{secret_id}:expire", "/v1/endpoints/a/secrets/b:expire"),
            pairs(&[("id", "a"), ("secret_id", "b")])
        );
        assert_eq!(find("/v1/e/{endpoint.id}", "/v1/e/a"), pairs(&[("endpoint.id", "a")]));
    }

    #[test]
    fn a_verb_is_part_of_the_route_and_never_of_the_value() {
        assert_eq!(find("/v1/d/{id}:retry", "/v1/d/a:retry"), pairs(&[("id", "a")]));
        assert_eq!(find("/v1/d/{id}:retry", "/v1/d/a"), None);
        assert_eq!(find("/v1/d/{id}", "/v1/d/a:retry"), None);
        assert_eq!(find("/v1/d:watch", "/v1/d:watch"), pairs(&[]));
        assert_eq!(find("/v1/d", "/v1/d:watch"), None);
        assert_eq!(find("/v1/d/{id}", "/v1/d/a%3Aretry"), pairs(&[("id", "a:retry")]));
    }

    #[test]
    fn values_are_percent_decoded_once_and_plus_is_a_plus() {
        assert_eq!(find("/v1/d/{id}", "/v1/d/a%2Fb%2520+c"), pairs(&[("id", "a/b%20+c")]));
        assert_eq!(find("/v1/d/{id}", "/v1/d/100%"), pairs(&[("id", "100%")]));
        assert_eq!(find("/v1/d/{id}", "/v1/d/%ff"), pairs(&[("id", "%ff")]));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for template in ["v1/a", "/v1//a", "/v1/{id", "/v1/{a=b/*}", "/v1/*", "/v1/**", "/v1/a:", "/v1/{}"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
