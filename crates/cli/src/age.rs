//! How long ago something was, in one short word.

use jiff::Timestamp;

/// The time between an RFC 3339 time and now, in the largest unit that leaves two digits of meaning: `90s`, `42m`, `30h`, `12d`.
/// `-` where there is no such time. Clocks of machines differ: what lies in the future is `0s`.
pub(crate) fn since(time: Option<&str>, now: Timestamp) -> String {
    let Some(time) = time.and_then(|time| time.parse::<Timestamp>().ok()) else { return "-".to_owned() };
    let seconds = now.duration_since(time).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let cases = [
            (Some("2026-11-22T12:00:00Z"), "0s"),
            (Some("2026-11-22T11:58:01Z"), "119s"),
            (Some("2026-11-22T11:58:00Z"), "2m"),
            (Some("2026-11-22T10:00:01.5Z"), "119m"),
            (Some("2026-11-22T10:00:00Z"), "2h"),
            (Some("2026-11-20T12:00:01Z"), "47h"),
            (Some("2026-11-20T12:00:00+00:00"), "2d"),
            (Some("2026-11-22T12:00:09Z"), "0s"),
            (Some("yesterday"), "-"),
            (None, "-"),
        ];
        for (time, age) in cases {
            assert_eq!(since(time, now), age, "{time:?}");
        }
    }
}
