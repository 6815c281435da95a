//! Time: whether this clock is the control plane's, and whether certificates are good by it.

use std::time::Duration;

use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Check, Verdict};

/// Certificates begin three minutes in the past: a clock that is further behind takes its own for one of the future.
const TOLERATED_SKEW: u64 = 180;
/// Above this somebody should look at the machine's time service.
const NOTABLE_SKEW: u64 = 5;
/// Below this a root is to be replaced (`meshctl rotate-root`), which takes as long as certificates live.
const SOON: u64 = 30 * DAY;
const DAY: u64 = 24 * 3600;

/// Judges this clock by what the control plane said it was there (`date` of its answer, in whole seconds), and how long it took to ask.
pub fn clock(date: Option<&str>, now: u64, asked: Duration) -> Check {
    const NAME: &str = "clock";
    let Some(date) = date else {
        return Check::unknown(NAME, "the control plane did not say what time it is");
    };
    let Some(there) = seconds(date) else {
        return Check::unknown(NAME, &format!("{date:?} is no date"));
    };
    // The second that is cut off there, and the way.
    let slack = 1 + asked.as_secs();
    let (behind, apart) = (now < there, now.abs_diff(there).saturating_sub(slack));
    let way = if behind { "behind" } else { "ahead of" };
    let figure = format!("{apart} s {way} the control plane's");
    match apart {
        0 => Check::new(NAME, Verdict::Ok, "the same as the control plane's"),
        apart if apart > TOLERATED_SKEW => {
            let message = format!("{figure}: certificates count by it, and handshakes fail; set the time by NTP");
            Check::new(NAME, Verdict::Error, message)
        }
        apart if apart > NOTABLE_SKEW => Check::new(NAME, Verdict::Warning, format!("{figure}: set the time by NTP")),
        _ => Check::new(NAME, Verdict::Ok, figure),
    }
}

/// Judges how long a certificate (DER) is good for. What is renewed by itself is warned of in its last tenth, which nothing that renews lets
/// it come to; a root in its last month.
pub fn certificate(what: &str, der: &[u8], now: u64) -> Check {
    const NAME: &str = "certificate";
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return Check::new(NAME, Verdict::Error, format!("{what} is no certificate"));
    };
    let validity = parsed.validity();
    let second = |time: i64| u64::try_from(time).unwrap_or(0);
    let (begins, ends) = (
        second(validity.not_before.timestamp()),
        second(validity.not_after.timestamp()),
    );
    let soon = if parsed.is_ca() {
        SOON
    } else {
        ends.saturating_sub(begins) / 10
    };
    if now < begins {
        let message = format!("{what} begins in {}: a clock is wrong", span(begins - now));
        return Check::new(NAME, Verdict::Error, message);
    }
    if now > ends {
        return Check::new(NAME, Verdict::Error, format!("{what} ended {} ago", span(now - ends)));
    }
    let left = ends - now;
    let (verdict, hint) = match left < soon {
        true => (Verdict::Warning, ": replace it"),
        false => (Verdict::Ok, ""),
    };
    Check::new(NAME, verdict, format!("{what} is good for {}{hint}", span(left)))
}

fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / DAY),
    }
}

/// `Mon, 30 Nov 2026 18:17:48 GMT` in seconds since 1970 (RFC 9110 5.6.7, the form that is sent).
pub(super) fn seconds(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = date.split_once(", ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = fields[..] else {
        return None;
    };
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let time: Vec<u64> = time.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hour, minute, second] = time[..] else { return None };
    let plausible =
        (1970..=9999).contains(&year) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !plausible {
        return None;
    }
    // Years begin in March, so that the day that is not always there is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let since_1970 = days.checked_sub(719_468)?;
    Some(since_1970 * DAY + hour * 3600 + minute * 60 + second)
}
