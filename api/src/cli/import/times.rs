//! Times as files write them, to RFC 3339 in UTC.

use jiff::{
    Error, Timestamp,
    civil::DateTime,
    fmt::strtime::BrokenDownTime,
    tz::{Disambiguation, TimeZone},
};

/// How a column of times is read.
#[derive(Debug)]
pub(super) struct Times {
    format: Option<String>,
    zone: TimeZone,
}

impl Times {
    /// Times in a strftime `format` (RFC 3339 or ISO 8601 without one), in `zone` where they carry none.
    pub(super) fn new(format: Option<String>, zone: TimeZone) -> Self {
        Self { format, zone }
    }

    /// The time in UTC with microseconds, as RFC 3339.
    ///
    /// # Errors
    /// The text is not a time of this form.
    pub(super) fn utc(&self, text: &str) -> Result<String, Error> {
        self.parse(text).map(|time| format!("{time:.6}"))
    }

    fn parse(&self, text: &str) -> Result<Timestamp, Error> {
        let Some(format) = &self.format else {
            return match text.parse::<Timestamp>() {
                Ok(time) => Ok(time),
                Err(_) => self.in_zone(text.parse()?),
            };
        };
        let time = BrokenDownTime::parse(format, text)?;
        if time.offset().is_some() || time.iana_time_zone().is_some() {
            return time.to_zoned().map(|zoned| zoned.timestamp());
        }
        match time.to_datetime() {
            Ok(civil) => self.in_zone(civil),
            // `%s` is a moment by itself; if that is missing too, its error is no better than the first.
            Err(error) => time.to_timestamp().map_err(|_| error),
        }
    }

    fn in_zone(&self, civil: DateTime) -> Result<Timestamp, Error> {
        self.zone
            .to_ambiguous_zoned(civil)
            .disambiguate(Disambiguation::Compatible)
            .map(|zoned| zoned.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_utc() {
        let check = |format: Option<&str>, zone: &str, text: &str, expected: Option<&str>| {
            let times = Times::new(format.map(Into::into), TimeZone::get(zone).unwrap());
            assert_eq!(times.utc(text).ok().as_deref(), expected, "{format:?} {zone} {text}");
        };
        let slashes = Some("%Y/%m/%d %H:%M:%S%.f");
        check(slashes, "UTC", "2014/10/22 11:15:41.000", Some("2014-10-22T11:15:41.000000Z"));
        check(slashes, "UTC", "2014/10/22 11:15:41", Some("2014-10-22T11:15:41.000000Z"));
        check(
            slashes,
            "Europe/Amsterdam",
            "2014/10/22 11:15:41",
            Some("2014-10-22T09:15:41.000000Z"),
        );
        check(slashes, "UTC", "2014-10-22 11:15:41", None);
        check(slashes, "UTC", "2014/02/30 11:15:41", None);
        check(slashes, "UTC", "", None);

        let offset = Some("%Y-%m-%d %H:%M:%S%.f%:z");
        let winter = "2011-12-06 13:41:31.788000+01:00";
        check(offset, "Asia/Tokyo", winter, Some("2011-12-06T12:41:31.788000Z"));
        check(offset, "UTC", "2011-12-06 13:41:31+01:00", Some("2011-12-06T12:41:31.000000Z"));
        check(None, "Asia/Tokyo", winter, Some("2011-12-06T12:41:31.788000Z"));
        check(None, "Asia/Tokyo", "2011-12-06T13:41:31", Some("2011-12-06T04:41:31.000000Z"));
        check(None, "UTC", "yesterday", None);

        check(Some("%Y-%m-%d"), "UTC", "2011-12-06", Some("2011-12-06T00:00:00.000000Z"));
        check(Some("%s"), "UTC", "1323175291", Some("2011-12-06T12:41:31.000000Z"));
        check(Some("%H:%M"), "UTC", "13:41", None);
    }

    #[test]
    fn clock_changes_are_settled_one_way() {
        let times = Times::new(None, TimeZone::get("Europe/Amsterdam").unwrap());
        // 02:30 comes twice, first at +02:00; on the day of the other change it is skipped.
        assert_eq!(times.utc("2014-10-26T02:30:00").unwrap(), "2014-10-26T00:30:00.000000Z");
        assert_eq!(times.utc("2014-03-30T02:30:00").unwrap(), "2014-03-30T01:30:00.000000Z");
    }
}
