//! Decimal text to exact integers.
//!
//! Syntax: `[+-] digits [. digits] [e [+-] digits]`, with at least one digit before the exponent.

/// What happens to digits below the wanted scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// They must be zero, or there is no result.
    Exact,
    /// As PostgreSQL's numeric: half away from zero.
    HalfAway,
    /// Toward minus infinity.
    Floor,
}

/// The integer that `text` denotes, if it denotes one exactly: `12`, `1.0` and `1e3` do.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (negative, digits) = match bytes.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, bytes),
    };
    if digits.is_empty() || digits.len() > 18 {
        return i64::try_from(scaled(text, 0, Rounding::Exact)?).ok();
    }
    let mut value = 0i64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return i64::try_from(scaled(text, 0, Rounding::Exact)?).ok();
        }
        value = value * 10 + i64::from(digit);
    }
    Some(if negative { -value } else { value })
}

/// `text` times `10^scale` as an integer; `None` if it is no number, or needs more than 38 digits.
pub(crate) fn scaled(text: &str, scale: i32, rounding: Rounding) -> Option<i128> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], exponent(&unsigned[at + 1..])?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let shift = exponent - fraction.len() as i64 + i64::from(scale);
    let parts =
        if whole.len() + fraction.len() <= 38 { short(whole, fraction, shift)? } else { long(whole, fraction, shift)? };
    parts.rounded(negative, rounding)
}

/// A magnitude: whole part, and what is known of the part below one.
struct Parts {
    whole: i128,
    has_remainder: bool,
    is_half_or_more: bool,
}

impl Parts {
    fn rounded(self, negative: bool, rounding: Rounding) -> Option<i128> {
        let up = match rounding {
            Rounding::Exact if self.has_remainder => return None,
            Rounding::Exact => false,
            Rounding::HalfAway => self.is_half_or_more,
            Rounding::Floor => negative && self.has_remainder,
        };
        let magnitude = self.whole.checked_add(i128::from(up))?;
        Some(if negative { -magnitude } else { magnitude })
    }
}

/// At most 38 digits: they fit an `i128`.
fn short(whole: &str, fraction: &str, shift: i64) -> Option<Parts> {
    let digits = whole.bytes().chain(fraction.bytes()).fold(0i128, |sum, digit| sum * 10 + i128::from(digit - b'0'));
    if digits == 0 || shift >= 0 {
        let whole = if digits == 0 { 0 } else { digits.checked_mul(power_of_ten(shift)?)? };
        return Some(Parts { whole, has_remainder: false, is_half_or_more: false });
    }
    let Some(divisor) = power_of_ten(-shift) else {
        return Some(Parts { whole: 0, has_remainder: true, is_half_or_more: false });
    };
    let remainder = digits % divisor;
    Some(Parts { whole: digits / divisor, has_remainder: remainder != 0, is_half_or_more: remainder >= divisor / 2 })
}

/// Any number of digits, cut as text.
fn long(whole: &str, fraction: &str, mut shift: i64) -> Option<Parts> {
    let all = format!("{whole}{fraction}");
    let significant = all.trim_start_matches('0');
    let digits = significant.trim_end_matches('0');
    shift += (significant.len() - digits.len()) as i64;
    if digits.len() <= 38 {
        return short(digits, "", shift);
    }
    let cut = usize::try_from(-shift).ok()?;
    if cut > digits.len() {
        return Some(Parts { whole: 0, has_remainder: true, is_half_or_more: false });
    }
    let (kept, dropped) = digits.split_at(digits.len() - cut);
    if kept.len() > 38 {
        return None;
    }
    let whole = kept.bytes().fold(0i128, |sum, digit| sum * 10 + i128::from(digit - b'0'));
    Some(Parts {
        whole,
        has_remainder: !dropped.is_empty(),
        is_half_or_more: dropped.as_bytes().first() >= Some(&b'5'),
    })
}

fn exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !is_digits(digits) {
        return None;
    }
    // Beyond every representable number, yet far from overflowing the sums made with it.
    let magnitude = digits.parse::<i64>().unwrap_or(i64::MAX).min(1 << 40);
    Some(if text.starts_with('-') { -magnitude } else { magnitude })
}

/// `10^exponent`, if it has at most 39 digits.
pub(crate) fn power_of_ten(exponent: i64) -> Option<i128> {
    10i128.checked_pow(u32::try_from(exponent).ok()?)
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A finite or explicitly not finite float. Digits that overflow give `None`, those that underflow give zero.
macro_rules! float {
    ($name:ident, $type:ty) => {
        pub(crate) fn $name(text: &str) -> Option<$type> {
            let value = text.parse::<$type>().ok()?;
            if value.is_nan() {
                return Some(<$type>::NAN);
            }
            let overflowed = value.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit());
            (!overflowed).then_some(value)
        }
    };
}

float!(float64, f64);
float!(float32, f32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_are_cut_exactly() {
        let check = |text: &str, scale, rounding, expected: Option<i128>| {
            assert_eq!(scaled(text, scale, rounding), expected, "{text} scale {scale} {rounding:?}");
        };
        let ones = "1".repeat(38);
        check(&ones, 0, Rounding::Exact, ones.parse().ok());
        check(&format!("{ones}.0"), 0, Rounding::Exact, ones.parse().ok());
        check(&format!("{ones}1"), 0, Rounding::Exact, None);
        check(&format!("0.{}5", "0".repeat(60)), 2, Rounding::HalfAway, Some(0));
        check(&format!("-0.{}5", "0".repeat(60)), 2, Rounding::Floor, Some(-1));
        check(&format!("2.5{}1", "0".repeat(60)), 0, Rounding::HalfAway, Some(3));
        check(&format!("2.4{}", "9".repeat(60)), 0, Rounding::HalfAway, Some(2));
        check(&format!("0.{}1e61", "0".repeat(60)), 0, Rounding::Exact, Some(1));
        check(&format!("0.00{}", "9".repeat(60)), 2, Rounding::HalfAway, Some(1));
        check(&format!("0.{}", "9".repeat(60)), 0, Rounding::HalfAway, Some(1));
        check("0e99999999999999999999", 0, Rounding::Exact, Some(0));
        check("1e99999999999999999999", 0, Rounding::Exact, None);
        check("1e-99999999999999999999", 0, Rounding::HalfAway, Some(0));
        check("-2.5", 0, Rounding::HalfAway, Some(-3));
        check("12345", -2, Rounding::HalfAway, Some(123));
        check("1.2.3", 0, Rounding::HalfAway, None);
        check("", 0, Rounding::HalfAway, None);
        check("-", 0, Rounding::HalfAway, None);
        check(".", 0, Rounding::HalfAway, None);
        check("1e", 0, Rounding::HalfAway, None);
    }
}
