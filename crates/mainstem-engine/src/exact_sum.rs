//! Sums of floats that depend neither on the order of the additions nor on what was added and taken out again.
//!
//! Every finite double is a whole multiple of 2^-1074. [`ExactSum`] keeps the sum as a whole number of those, in limbs of
//! 32 bits, only the limbs in use; adding and subtracting are exact, so a subtraction undoes an addition to the last bit.
//! Infinities and NaNs are counted, so they can be taken back as well. The value is rounded once, to nearest, ties to even.
//!
//! The average is that rounded sum divided by the count. Incremental views and batch queries use this same code, which is
//! why they agree bit for bit.

use num_bigint::BigInt;

/// The exact sum of a multiset of doubles.
#[derive(Clone, Debug, Default)]
pub struct ExactSum {
    /// Place of `limbs[0]`: it counts multiples of 2^(32 * base - 1074).
    base: u16,
    /// Additions since the limbs were last carried: below [`CARRY_EVERY`], so no limb overflows.
    uncarried: u32,
    /// Signed digits of base 2^32. After a carry all but the last are in 0..2^32.
    limbs: Vec<i64>,
    /// Counts of NaN, +inf and -inf: rare, so not inline.
    special: Option<Box<[i64; 3]>>,
}

/// Each addition changes a limb by less than 2^33, a carried limb is below 2^32.
const CARRY_EVERY: u32 = 1 << 28;
const LIMB: i64 = 1 << 32;

impl ExactSum {
    /// Nothing added yet; its value is 0.
    pub fn new() -> ExactSum {
        ExactSum::default()
    }

    /// Adds the value `weight` times; a negative weight takes it out.
    pub fn add(&mut self, value: f64, weight: i64) {
        if weight == 0 || value == 0.0 {
            return;
        }
        if !value.is_finite() {
            let place = if value.is_nan() { 0 } else { 1 + usize::from(value < 0.0) };
            let special = self.special.get_or_insert_default();
            special[place] += weight;
            if special.iter().all(|count| *count == 0) {
                self.special = None;
            }
            return;
        }
        let bits = value.to_bits();
        let exponent = (bits >> 52) & 0x7ff;
        let fraction = bits & ((1 << 52) - 1);
        // Subnormals have no hidden bit and the exponent of the smallest normals.
        let (mantissa, position) =
            if exponent == 0 { (fraction, 0) } else { (fraction | (1 << 52), exponent as usize - 1) };
        let product = u128::from(mantissa) * u128::from(weight.unsigned_abs());
        let negative = (value < 0.0) != (weight < 0);
        let (limb, shift) = (position / 32, position % 32);
        self.add_digits(limb, u128::from(product as u64) << shift, negative);
        let high = product >> 64;
        if high != 0 {
            self.add_digits(limb + 2, high << shift, negative);
        }
        self.uncarried += 1;
        if self.uncarried >= CARRY_EVERY {
            self.carry();
        }
    }

    /// Takes the value out again.
    pub fn subtract(&mut self, value: f64, weight: i64) {
        self.add(value, -weight);
    }

    /// Adds everything that the other holds.
    pub fn merge(&mut self, other: &ExactSum) {
        if let Some(counts) = &other.special {
            let special = self.special.get_or_insert_default();
            special.iter_mut().zip(counts.iter()).for_each(|(mine, theirs)| *mine += theirs);
            if special.iter().all(|count| *count == 0) {
                self.special = None;
            }
        }
        let mut other = other.clone();
        other.carry();
        self.carry();
        if other.limbs.is_empty() {
            return;
        }
        self.reach(other.base as usize, other.limbs.len());
        let start = other.base as usize - self.base as usize;
        self.limbs[start..].iter_mut().zip(&other.limbs).for_each(|(mine, theirs)| *mine += theirs);
        self.carry();
    }

    /// The sum, rounded once. NaN when a NaN, or infinities of both signs, are in it; never -0.0.
    pub fn value(&self) -> f64 {
        if let Some(special) = &self.special {
            let [nan, plus, minus] = **special;
            return match (nan != 0, plus != 0, minus != 0) {
                (true, _, _) | (_, true, true) => f64::NAN,
                (_, true, _) => f64::INFINITY,
                _ => f64::NEG_INFINITY,
            };
        }
        let mut carried = self.clone();
        carried.carry();
        let negative = carried.limbs.last().is_some_and(|limb| *limb < 0);
        if negative {
            carried.limbs.iter_mut().for_each(|limb| *limb = -*limb);
            carried.carry();
        }
        let magnitude = round(&carried.limbs, carried.base as usize * 32);
        if negative { -magnitude } else { magnitude }
    }

    /// The rounded sum divided by the count of what is in it.
    pub fn average(&self, count: i64) -> f64 {
        self.value() / count as f64
    }

    /// The sum as a whole number and the power of two that it counts. None when something in it is not finite.
    pub(crate) fn exact(&self) -> Option<(BigInt, i64)> {
        if self.special.is_some() {
            return None;
        }
        let mut carried = self.clone();
        carried.carry();
        let digit = |number: BigInt, limb: &i64| (number << 32_u32) + limb;
        let number = carried.limbs.iter().rev().fold(BigInt::ZERO, digit);
        Some((number, i64::from(carried.base) * 32 - 1074))
    }

    /// Nothing is left in it (sums that cancel out to zero included).
    pub fn is_zero(&self) -> bool {
        let mut carried = self.clone();
        carried.carry();
        carried.limbs.is_empty() && carried.special.is_none()
    }

    /// Heap bytes held.
    pub fn heap_bytes(&self) -> usize {
        self.limbs.capacity() * 8 + self.special.as_ref().map_or(0, |_| 24)
    }

    /// Appends an encoding that depends only on the sum: u8 flags (1: specials follow), 3 x i64 NaN, +inf and -inf counts if
    /// so, u16 place of the first limb, u16 count of limbs, the limbs as i64. All little-endian.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut carried = self.clone();
        carried.carry();
        out.push(u8::from(carried.special.is_some()));
        for count in carried.special.iter().flat_map(|special| special.iter()) {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(&carried.base.to_le_bytes());
        out.extend_from_slice(&(carried.limbs.len() as u16).to_le_bytes());
        for limb in &carried.limbs {
            out.extend_from_slice(&limb.to_le_bytes());
        }
    }

    /// Reads what [`ExactSum::encode`] wrote, and moves `bytes` behind it. None when it is not that.
    pub fn decode(bytes: &mut &[u8]) -> Option<ExactSum> {
        let mut sum = ExactSum::new();
        match take::<1>(bytes)? {
            [0] => {}
            [1] => {
                let mut special = Box::new([0; 3]);
                for count in special.iter_mut() {
                    *count = i64::from_le_bytes(take(bytes)?);
                }
                sum.special = Some(special);
            }
            _ => return None,
        }
        sum.base = u16::from_le_bytes(take(bytes)?);
        let limbs = u16::from_le_bytes(take(bytes)?);
        for _ in 0..limbs {
            sum.limbs.push(i64::from_le_bytes(take(bytes)?));
        }
        Some(sum)
    }

    /// Adds a number below 2^96 at a limb, digit by digit.
    fn add_digits(&mut self, limb: usize, number: u128, negative: bool) {
        self.reach(limb, 3);
        let start = limb - self.base as usize;
        for (place, digit) in self.limbs[start..start + 3].iter_mut().enumerate() {
            let part = ((number >> (32 * place)) & 0xffff_ffff) as i64;
            *digit += if negative { -part } else { part };
        }
    }

    /// Makes room for `count` limbs from place `limb` on.
    fn reach(&mut self, limb: usize, count: usize) {
        if self.limbs.is_empty() {
            self.base = limb as u16;
        }
        if limb < self.base as usize {
            let missing = self.base as usize - limb;
            self.limbs.splice(0..0, std::iter::repeat_n(0, missing));
            self.base = limb as u16;
        }
        let end = limb + count - self.base as usize;
        if self.limbs.len() < end {
            self.limbs.resize(end, 0);
        }
    }

    /// Brings the limbs into their one normal form: all but the last in 0..2^32, none superfluous at either end.
    fn carry(&mut self) {
        self.uncarried = 0;
        let mut carry = 0;
        for limb in &mut self.limbs {
            let sum = *limb + carry;
            *limb = sum.rem_euclid(LIMB);
            carry = sum.div_euclid(LIMB);
        }
        while carry != 0 && carry != -1 {
            self.limbs.push(carry.rem_euclid(LIMB));
            carry = carry.div_euclid(LIMB);
        }
        let zeros = self.limbs.iter().take_while(|limb| **limb == 0).count();
        self.limbs.drain(..zeros);
        self.base += zeros as u16;
        // The sign: all limbs above are 0 or all are -1.
        if carry == -1 {
            while self.limbs.last() == Some(&(LIMB - 1)) {
                self.limbs.pop();
            }
            match self.limbs.last_mut() {
                Some(top) => *top -= LIMB,
                None => self.limbs.push(-1),
            }
        } else {
            while self.limbs.last() == Some(&0) {
                self.limbs.pop();
            }
        }
        if self.limbs.is_empty() {
            self.base = 0;
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// The double nearest to limbs * 2^(bit - 1074), limbs carried and not negative.
fn round(limbs: &[i64], bit: usize) -> f64 {
    let Some(top) = limbs.last() else { return 0.0 };
    let digit = |place: usize| -> bool { limbs.get(place / 32).is_some_and(|limb| (limb >> (place % 32)) & 1 == 1) };
    // Places relative to limbs[0]; the top bit's absolute place is `highest + bit`.
    let highest = (limbs.len() - 1) * 32 + (63 - top.leading_zeros() as usize);
    let absolute = highest + bit;
    if absolute <= 52 {
        // Exact: the bits of a subnormal, or of the smallest normals, are the number itself.
        let number = (0..=highest).rev().fold(0_u64, |number, place| number << 1 | u64::from(digit(place)));
        return f64::from_bits(number << bit);
    }
    let mut mantissa = 0_u64;
    for step in 0..53 {
        mantissa = mantissa << 1 | u64::from(highest >= step && digit(highest - step));
    }
    let half = highest >= 53 && digit(highest - 53);
    let beyond = highest > 53 && (0..highest - 53).any(digit);
    let mut exponent = absolute - 52 + 1;
    if half && (beyond || mantissa & 1 == 1) {
        mantissa += 1;
        if mantissa == 1 << 53 {
            mantissa >>= 1;
            exponent += 1;
        }
    }
    if exponent >= 0x7ff {
        return f64::INFINITY;
    }
    f64::from_bits((exponent as u64) << 52 | (mantissa & ((1 << 52) - 1)))
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn seed() -> u64 {
        let seed = std::env::var("MAINSTEM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121);
        println!("MAINSTEM_SEED={seed}");
        seed
    }

    fn sum_of(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::new();
        values.iter().for_each(|value| sum.add(*value, 1));
        sum
    }

    #[test]
    fn known_sums_are_rounded_once() {
        assert_eq!(sum_of(&[]).value().to_bits(), 0);
        assert_eq!(sum_of(&[1e100, 1.0, -1e100]).value(), 1.0);
        assert_eq!(sum_of(&[0.1; 10]).value(), 1.0);
        assert_eq!(sum_of(&[f64::MAX, f64::MAX, -f64::MAX]).value(), f64::MAX);
        assert_eq!(sum_of(&[f64::MAX, f64::MAX]).value(), f64::INFINITY);
        assert_eq!(sum_of(&[-0.0, -0.0]).value().to_bits(), 0);
        // Half a unit in the last place: to even; a little more: up.
        assert_eq!(sum_of(&[1.0, f64::EPSILON / 2.0]).value(), 1.0);
        assert_eq!(sum_of(&[1.0, f64::EPSILON / 2.0, f64::MIN_POSITIVE * f64::EPSILON]).value(), 1.0 + f64::EPSILON);
        assert_eq!(sum_of(&[f64::INFINITY, 1.0]).value(), f64::INFINITY);
        assert!(sum_of(&[f64::INFINITY, f64::NEG_INFINITY]).value().is_nan());
    }

    #[test]
    fn single_values_come_back_unchanged() {
        let mut random = SmallRng::seed_from_u64(seed());
        for _ in 0..20_000 {
            let value = f64::from_bits(random.random());
            if value.is_finite() {
                assert_eq!(sum_of(&[value]).value(), value, "{value:e}");
                assert_eq!(sum_of(&[value, value, -value]).value(), value, "{value:e}");
            }
        }
    }

    #[test]
    fn sums_of_whole_numbers_match_integer_arithmetic() {
        let mut random = SmallRng::seed_from_u64(seed());
        for _ in 0..2_000 {
            let scale = 2_f64.powi(random.random_range(-900..800));
            let mut expected = 0_i128;
            let mut sum = ExactSum::new();
            for _ in 0..random.random_range(1..20) {
                let number = random.random_range(-(1_i64 << 50)..1 << 50) >> random.random_range(0..50);
                let weight = random.random_range(-(1_i64 << 40)..1 << 40);
                expected += i128::from(number) * i128::from(weight);
                sum.add(number as f64 * scale, weight);
            }
            assert_eq!(sum.value(), expected as f64 * scale);
        }
    }

    #[test]
    fn order_and_retractions_leave_no_trace() {
        let mut random = SmallRng::seed_from_u64(seed());
        for _ in 0..500 {
            let count = random.random_range(1..40);
            let values: Vec<f64> = (0..count)
                .map(|_| match random.random_range(0..30) {
                    0 => f64::NAN,
                    1 => f64::INFINITY,
                    2 => f64::NEG_INFINITY,
                    _ => f64::from_bits(random.random()),
                })
                .collect();
            let kept = random.random_range(0..=count);
            let mut all = sum_of(&values);
            values[kept..].iter().for_each(|value| all.subtract(*value, 1));
            let mut reversed = ExactSum::new();
            values[..kept].iter().rev().for_each(|value| reversed.add(*value, 1));
            let mut merged = sum_of(&values[..kept / 2]);
            merged.merge(&sum_of(&values[kept / 2..kept]));
            let encoded = |sum: &ExactSum| {
                let mut bytes = Vec::new();
                sum.encode(&mut bytes);
                bytes
            };
            assert_eq!(encoded(&all), encoded(&reversed));
            assert_eq!(encoded(&all), encoded(&merged));
            assert_eq!(all.value().to_bits(), reversed.value().to_bits());
            let bytes = encoded(&all);
            let mut rest = bytes.as_slice();
            let decoded = ExactSum::decode(&mut rest).unwrap();
            assert!(rest.is_empty());
            assert_eq!(decoded.value().to_bits(), all.value().to_bits());
            assert!(ExactSum::decode(&mut &bytes[..bytes.len() - 1]).is_none());
            values[..kept].iter().for_each(|value| all.subtract(*value, 1));
            assert!(all.is_zero());
        }
    }
}
