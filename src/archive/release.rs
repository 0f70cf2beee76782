//! A suite's verified `Release` text: what it is, how long it counts, its indexes' hashes.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::ArchiveError;
use super::deb822::{self, Paragraph};
use super::signature::CLOCK_TOLERANCE;
use crate::download::Sha256;

/// The content of a `Release` file
/// (<https://wiki.debian.org/DebianRepository/Format#A.22Release.22_files>).
#[derive(Clone, Debug)]
pub struct Release {
    date: u64,
    fields: Paragraph,
    files: HashMap<String, Listed>,
}

/// One file below the suite's directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listed {
    /// Its digest.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub size: u64,
}

impl Release {
    /// Reads the signed text of `suite`, and checks that it is that suite's and counts at
    /// the time `now`.
    ///
    /// # Errors
    /// Where it is malformed, of another suite, out of date, or from the future.
    pub fn parse(
        text: &str,
        url: &str,
        suite: &str,
        now: SystemTime,
    ) -> Result<Self, ArchiveError> {
        let malformed = |reason: String| ArchiveError::Release { url: url.to_owned(), reason };
        let fields = deb822::parse(text.as_bytes())
            .map_err(|error| malformed(crate::error::chain(&error)))?;
        let named = ["Suite", "Codename"].map(|name| fields.get(name).unwrap_or_default());
        if !named.contains(&suite) {
            return Err(ArchiveError::Suite {
                url: url.to_owned(),
                expected: suite.to_owned(),
                actual: named.join("/"),
            });
        }
        let time = |name: &str| {
            let Some(value) = fields.get(name) else { return Ok(None) };
            parse_date(value)
                .map(Some)
                .ok_or_else(|| malformed(format!("'{value}' is not a date for {name}")))
        };
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        if let Some(until) = time("Valid-Until")?.filter(|until| *until < now) {
            return Err(ArchiveError::Stale { url: url.to_owned(), until });
        }
        let made = time("Date")?.ok_or_else(|| malformed("it has no Date".to_owned()))?;
        if made > now.saturating_add(CLOCK_TOLERANCE.as_secs()) {
            return Err(ArchiveError::NotYetValid { url: url.to_owned(), made });
        }
        let mut files = HashMap::new();
        let list = fields.get("SHA256").ok_or_else(|| malformed("it has no SHA256".to_owned()))?;
        for line in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let listed = parse_line(line).ok_or_else(|| malformed(format!("line '{line}'")))?;
            files.insert(listed.0, listed.1);
        }
        Ok(Self { date: made, fields, files })
    }

    /// The file of this path below the suite's directory.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<Listed> {
        self.files.get(path).copied()
    }

    /// When it was made, in seconds since 1970.
    #[must_use]
    pub fn date(&self) -> u64 {
        self.date
    }

    /// Whether indexes can be fetched by their hash, so that an archive that changes in
    /// the middle does no harm.
    #[must_use]
    pub fn has_by_hash(&self) -> bool {
        self.fields.get("Acquire-By-Hash").is_some_and(|value| value.eq_ignore_ascii_case("yes"))
    }
}

fn parse_line(line: &str) -> Option<(String, Listed)> {
    let mut words = line.split_ascii_whitespace();
    let sha256 = Sha256::parse(words.next()?).ok()?;
    let size = words.next()?.parse().ok()?;
    let path = words.next()?.to_owned();
    words.next().is_none().then_some((path, Listed { sha256, size }))
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since 1970 of `Sat, 12 Sep 2026 07:55:41 UTC`.
fn parse_date(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split_once(',')?.1.split_ascii_whitespace().collect();
    let &[day, month, year, time, zone] = words.as_slice() else { return None };
    if !matches!(zone, "UTC" | "GMT" | "+0000") {
        return None;
    }
    let day: u64 = day.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month = MONTHS.iter().position(|known| *known == month)? as u64 + 1;
    let year: u64 = year.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut clock = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if clock.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970 in a calendar whose years begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days =
        (365 * year + year / 4 - year / 100 + year / 400 + day_of_year).checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// `2026-09-12 07:55 UTC` of seconds since 1970.
pub fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + carry;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn text() -> String {
        format!(
            "Suite: stable\nCodename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\n\
             Valid-Until: Sat, 19 Sep 2026 07:55:41 UTC\nAcquire-By-Hash: yes\n\
             SHA256:\n {EMPTY} 0 main/binary-amd64/Packages\n"
        )
    }

    const DATE: u64 = 1_789_199_741;

    #[test]
    fn a_release_is_read() {
        let release = Release::parse(&text(), "u", "trixie", at(DATE)).unwrap();
        assert!(release.has_by_hash());
        assert_eq!(release.file("main/binary-amd64/Packages").unwrap().size, 0);
        assert!(release.file("x").is_none());
        assert!(Release::parse(&text(), "u", "stable", at(DATE)).is_ok());
    }

    #[test]
    fn a_release_of_another_suite_or_time_is_refused() {
        let parse = |suite, now| Release::parse(&text(), "u", suite, at(now)).unwrap_err();
        assert!(matches!(parse("sid", DATE), ArchiveError::Suite { .. }));
        assert!(matches!(parse("trixie", DATE + 8 * 86_400), ArchiveError::Stale { .. }));
        assert!(matches!(parse("trixie", DATE - 86_400), ArchiveError::NotYetValid { .. }));
    }

    #[test]
    fn a_malformed_release_is_refused() {
        for (from, to) in
            [("Date: S", "Dote: S"), ("12 Sep", "12 Spt"), ("SHA256", "SHA1"), (" 0 ", " x ")]
        {
            let changed = text().replacen(from, to, 1);
            let error = Release::parse(&changed, "u", "trixie", at(DATE)).unwrap_err();
            assert!(matches!(error, ArchiveError::Release { .. }), "{from}: {error}");
        }
    }

    proptest! {
        #[test]
        fn dates_are_read_as_they_are_shown(seconds in 0_u64..200_000_000_000) {
            let seconds = seconds / 60 * 60;
            let shown = date(seconds);
            let (year, month, day) = (&shown[..4], &shown[5..7], &shown[8..10]);
            let month = MONTHS[month.parse::<usize>().unwrap() - 1];
            let text = format!("Mon, {day} {month} {year} {}:00 UTC", &shown[11..16]);
            prop_assert_eq!(parse_date(&text), Some(seconds));
        }
    }
}
