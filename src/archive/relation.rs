//! Relationships between packages: `a (>= 1) | b, c` (Debian policy 7.1).

use std::fmt;

use super::version;

/// Packages of which one is enough.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Clause {
    /// The alternatives, preferred first; never empty.
    pub alternatives: Vec<Relation>,
}

/// One package, maybe of certain versions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Relation {
    /// The package's name, without an architecture.
    pub name: String,
    /// Which versions.
    pub version: Option<(Operator, String)>,
}

/// How a version is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>>`
    Later,
    /// `>=`
    LaterOrEqual,
}

/// A text that is not a relationship.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{text}' is not a relationship between packages")]
pub struct RelationError {
    /// The text.
    pub text: String,
}

/// Reads the value of `Depends`, `Conflicts`, `Provides` and the like.
///
/// # Errors
/// Where the text is malformed.
pub fn parse(text: &str) -> Result<Vec<Clause>, RelationError> {
    text.split(',')
        .map(str::trim)
        .filter(|clause| !clause.is_empty())
        .map(|clause| {
            let alternatives = clause.split('|').map(Relation::parse).collect::<Result<_, _>>()?;
            Ok(Clause { alternatives })
        })
        .collect()
}

impl Relation {
    fn parse(text: &str) -> Result<Self, RelationError> {
        let error = || RelationError { text: text.trim().chars().take(120).collect() };
        // Architecture and profile restrictions belong to source packages.
        let text = text
            .split(['[', '<'].as_slice())
            .next()
            .filter(|_| !text.contains('('))
            .unwrap_or(text)
            .trim();
        let (name, version) = match text.split_once('(') {
            None => (text, None),
            Some((name, rest)) => {
                let inside = rest.split_once(')').ok_or_else(error)?.0.trim();
                (name.trim(), Some(parse_version(inside).ok_or_else(error)?))
            }
        };
        let name = name.split(':').next().unwrap_or(name);
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
        if name.is_empty() || !name.bytes().all(valid) {
            return Err(error());
        }
        Ok(Self { name: name.to_owned(), version })
    }

    /// Whether a package of this name and version is meant.
    #[must_use]
    pub fn accepts(&self, candidate: &str) -> bool {
        self.version.as_ref().is_none_or(|(operator, wanted)| {
            let order = version::compare(candidate, wanted);
            match operator {
                Operator::Earlier => order.is_lt(),
                Operator::EarlierOrEqual => order.is_le(),
                Operator::Equal => order.is_eq(),
                Operator::Later => order.is_gt(),
                Operator::LaterOrEqual => order.is_ge(),
            }
        })
    }

    /// Whether a virtual package is meant: a versioned relation wants a versioned
    /// `Provides` (Debian policy 7.5).
    #[must_use]
    pub fn accepts_provided(&self, provided: Option<&str>) -> bool {
        match (&self.version, provided) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(version)) => self.accepts(version),
        }
    }
}

fn parse_version(text: &str) -> Option<(Operator, String)> {
    let symbols = [
        ("<<", Operator::Earlier),
        ("<=", Operator::EarlierOrEqual),
        (">>", Operator::Later),
        (">=", Operator::LaterOrEqual),
        ("=", Operator::Equal),
        // Old spellings: they include equality.
        ("<", Operator::EarlierOrEqual),
        (">", Operator::LaterOrEqual),
    ];
    symbols.iter().find_map(|(symbol, operator)| {
        let version = text.strip_prefix(symbol)?.trim();
        (!version.is_empty() && !version.contains(char::is_whitespace))
            .then(|| (*operator, version.to_owned()))
    })
}

impl fmt::Display for Clause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, relation) in self.alternatives.iter().enumerate() {
            if index > 0 {
                formatter.write_str(" | ")?;
            }
            write!(formatter, "{relation}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)?;
        let Some((operator, version)) = &self.version else { return Ok(()) };
        let symbol = match operator {
            Operator::Earlier => "<<",
            Operator::EarlierOrEqual => "<=",
            Operator::Equal => "=",
            Operator::Later => ">>",
            Operator::LaterOrEqual => ">=",
        };
        write!(formatter, " ({symbol} {version})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn relations_are_read_as_they_are_written() {
        let text = "libc6 (>= 2.36), a | b:any (<< 1:2-3~), c";
        let clauses = parse(text).unwrap();
        let shown: Vec<_> = clauses.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["libc6 (>= 2.36)", "a | b (<< 1:2-3~)", "c"]);
    }

    #[test]
    fn malformed_relations_are_refused() {
        for text in ["a (>= 1", "a ()", "a (1)", "a b", "| a", "(>= 1)", "a (>= 1 2)", "a/b"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn versions_are_compared() {
        let relation = |text: &str| parse(text).unwrap().remove(0).alternatives.remove(0);
        assert!(relation("a (<< 2)").accepts("1"));
        assert!(!relation("a (<< 2)").accepts("2"));
        assert!(relation("a (<= 2)").accepts("2"));
        assert!(relation("a (= 2)").accepts("0:2-0"));
        assert!(!relation("a (>> 2)").accepts("2"));
        assert!(relation("a (>= 2)").accepts("2"));
        assert!(relation("a").accepts_provided(None));
        assert!(!relation("a (= 1)").accepts_provided(None));
        assert!(relation("a (= 1)").accepts_provided(Some("1")));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_shown_is_read_back(text in "[a-z][a-z0-9+.-]{0,5}( \\((<<|<=|=|>=|>>) [0-9][a-z0-9.+~-]{0,4}\\))?") {
            prop_assert_eq!(parse(&text).unwrap()[0].to_string(), text);
        }
    }
}
