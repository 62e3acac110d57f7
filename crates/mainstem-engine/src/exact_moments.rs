//! Variances, covariances, correlation and regression that depend neither on the order of the values nor on what was added and
//! taken out again.
//!
//! Kept are the exact sums of x, y, their squares and their product ([`ExactSum`]). A square or a product of two doubles is
//! the sum of two doubles exactly, unless it is beyond their range. What the functions have in common, `n * sum(xy) - sum(x)
//! * sum(y)`, is computed in whole numbers and rounded once: nothing cancels out that should not.
//!
//! Incremental views and batch queries use this same code, which is why they agree bit for bit.

use mainstem_sql::Moment;
use num_bigint::BigInt;

use crate::exact_sum::ExactSum;

/// The moments of a multiset of pairs of doubles, or of doubles (x alone).
#[derive(Clone, Debug, Default)]
pub struct ExactMoments {
    count: i64,
    x: ExactSum,
    xx: ExactSum,
    /// Of pairs only: y, its squares, the products.
    of_pairs: Option<Box<[ExactSum; 3]>>,
}

impl ExactMoments {
    /// Adds a value `weight` times; a negative weight takes it out.
    pub fn add(&mut self, x: f64, weight: i64) {
        self.count += weight;
        self.x.add(x, weight);
        add_product(&mut self.xx, x, x, weight);
    }

    /// Adds a pair `weight` times; a negative weight takes it out.
    pub fn add_pair(&mut self, y: f64, x: f64, weight: i64) {
        self.add(x, weight);
        let [sum, squares, products] = self.of_pairs.get_or_insert_default().as_mut();
        sum.add(y, weight);
        add_product(squares, y, y, weight);
        add_product(products, x, y, weight);
    }

    /// Adds everything that the other holds.
    pub fn merge(&mut self, other: &ExactMoments) {
        self.count += other.count;
        self.x.merge(&other.x);
        self.xx.merge(&other.xx);
        if let Some(theirs) = &other.of_pairs {
            let mine = self.of_pairs.get_or_insert_default();
            mine.iter_mut().zip(theirs.iter()).for_each(|(mine, theirs)| mine.merge(theirs));
        }
    }

    /// Nothing is in it, so that it can be forgotten.
    pub fn is_empty(&self) -> bool {
        let mut pairs = self.of_pairs.iter().flat_map(|pairs| pairs.iter());
        self.count == 0 && self.x.is_zero() && self.xx.is_zero() && pairs.all(ExactSum::is_zero)
    }

    /// Heap bytes held.
    pub fn heap_bytes(&self) -> usize {
        let pairs = self.of_pairs.iter().flat_map(|pairs| pairs.iter());
        let of_pairs = pairs.map(|sum| size_of::<ExactSum>() + sum.heap_bytes()).sum::<usize>();
        self.x.heap_bytes() + self.xx.heap_bytes() + of_pairs
    }

    /// Appends an encoding: i64 count, the sums of x and its squares, u8 whether pairs follow, the other three sums.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        self.x.encode(out);
        self.xx.encode(out);
        out.push(u8::from(self.of_pairs.is_some()));
        self.of_pairs.iter().flat_map(|pairs| pairs.iter()).for_each(|sum| sum.encode(out));
    }

    /// Reads what [`ExactMoments::encode`] wrote, and moves `bytes` behind it. None when it is not that.
    pub fn decode(bytes: &mut &[u8]) -> Option<ExactMoments> {
        let (count, rest) = bytes.split_first_chunk::<8>()?;
        *bytes = rest;
        let (x, xx) = (ExactSum::decode(bytes)?, ExactSum::decode(bytes)?);
        let (has_pairs, rest) = bytes.split_first()?;
        *bytes = rest;
        let of_pairs = match has_pairs {
            0 => None,
            1 => Some(Box::new([ExactSum::decode(bytes)?, ExactSum::decode(bytes)?, ExactSum::decode(bytes)?])),
            _ => return None,
        };
        Some(ExactMoments { count: i64::from_le_bytes(*count), x, xx, of_pairs })
    }

    /// How many values or pairs.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// PostgreSQL's value of a function; None is null. Not of `regr_count`, which is [`ExactMoments::count`].
    pub fn value(&self, moment: Moment) -> Option<f64> {
        let n = self.count as f64;
        let zero = ExactSum::new();
        let [y, yy, xy] = match &self.of_pairs {
            Some(pairs) => pairs.each_ref(),
            None => [&zero, &zero, &zero],
        };
        // n times the sums of squares and products of the distances from the means.
        // Squares below the smallest double are lost, so that those of tiny values may come out below zero.
        let not_negative = |value: f64| if value <= 0.0 { 0.0 } else { value };
        let sxx = || not_negative(scaled(self.count, &self.xx, &self.x, &self.x));
        let syy = || not_negative(scaled(self.count, yy, y, y));
        let sxy = || scaled(self.count, xy, &self.x, y);
        let above = |least: i64, value: f64| (self.count > least).then_some(value);
        match moment {
            Moment::VarSamp => above(1, sxx() / n / (n - 1.0)),
            Moment::VarPop => above(0, sxx() / n / n),
            Moment::StddevSamp => above(1, (sxx() / n / (n - 1.0)).sqrt()),
            Moment::StddevPop => above(0, (sxx() / n / n).sqrt()),
            Moment::CovarSamp => above(1, sxy() / n / (n - 1.0)),
            Moment::CovarPop => above(0, sxy() / n / n),
            Moment::Corr => {
                let (sxx, syy) = (sxx(), syy());
                let value = sxy() / (sxx.sqrt() * syy.sqrt());
                above(0, value.clamp(-1.0, 1.0)).filter(|_| sxx != 0.0 && syy != 0.0)
            }
            Moment::RegrSlope => above(0, sxy() / sxx()).filter(|_| sxx() != 0.0),
            Moment::RegrIntercept => {
                let value = (y.value() - self.x.value() * (sxy() / sxx())) / n;
                above(0, value).filter(|_| sxx() != 0.0)
            }
            Moment::RegrR2 => {
                let (sxx, syy, sxy) = (sxx(), syy(), sxy());
                let value = if syy == 0.0 { 1.0 } else { sxy / sxx * (sxy / syy) };
                above(0, value).filter(|_| sxx != 0.0)
            }
            Moment::RegrAvgx => above(0, self.x.average(self.count)),
            Moment::RegrAvgy => above(0, y.average(self.count)),
            Moment::RegrSxx => above(0, sxx() / n),
            Moment::RegrSyy => above(0, syy() / n),
            Moment::RegrSxy => above(0, sxy() / n),
            Moment::RegrCount => above(0, n),
        }
    }
}

/// The exact product: its rounded value, and what the rounding left.
fn add_product(sum: &mut ExactSum, a: f64, b: f64, weight: i64) {
    let product = a * b;
    sum.add(product, weight);
    if product.is_finite() {
        sum.add(a.mul_add(b, -product), weight);
    }
}

/// `count * products - left * right`, rounded once; NaN if anything in it is not finite.
fn scaled(count: i64, products: &ExactSum, left: &ExactSum, right: &ExactSum) -> f64 {
    let (Some(products), Some(left), Some(right)) = (products.exact(), left.exact(), right.exact()) else {
        return f64::NAN;
    };
    // Each is a whole number and how many bits it has to be moved up.
    let first = (products.0 * count, products.1);
    let second = (left.0 * right.0, left.1 + right.1);
    let low = first.1.min(second.1);
    let place = |of: (BigInt, i64)| of.0 << u64::try_from(of.1 - low).expect("the lower of the two");
    rounded(&(place(first) - place(second)), low)
}

/// The double nearest to `number * 2^exponent`; of subnormal ones the one next to it at worst.
fn rounded(number: &BigInt, exponent: i64) -> f64 {
    let bits = number.magnitude().bits();
    let cut = bits.saturating_sub(64);
    let mut top = (number.magnitude() >> cut).iter_u64_digits().next().unwrap_or(0);
    // What was cut off decides only whether it is exactly half.
    if number.magnitude().trailing_zeros().is_some_and(|zeros| zeros < cut) {
        top |= 1;
    }
    let exponent = exponent + i64::try_from(cut).unwrap_or(i64::MAX / 2);
    let magnitude = scale(top as f64, exponent);
    if number.sign() == num_bigint::Sign::Minus { -magnitude } else { magnitude }
}

/// `value * 2^exponent`, in steps that stay within the range as long as the result does.
fn scale(mut value: f64, mut exponent: i64) -> f64 {
    while exponent != 0 && value != 0.0 && value.is_finite() {
        let step = exponent.clamp(-900, 900);
        value *= 2_f64.powi(step as i32);
        exponent -= step;
    }
    value
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn seed() -> u64 {
        let seed = std::env::var("MAINSTEM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_122);
        println!("MAINSTEM_SEED={seed}");
        seed
    }

    fn of(values: &[f64]) -> ExactMoments {
        let mut moments = ExactMoments::default();
        values.iter().for_each(|value| moments.add(*value, 1));
        moments
    }

    fn near(left: Option<f64>, right: f64) {
        let left = left.expect("a value");
        assert!((left - right).abs() <= 1e-12 * right.abs().max(1e-300), "{left} {right}");
    }

    #[test]
    fn known_values() {
        let moments = of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(moments.value(Moment::StddevPop), Some(2.0));
        near(moments.value(Moment::VarSamp), 32.0 / 7.0);
        assert_eq!(of(&[]).value(Moment::VarPop), None);
        assert_eq!(of(&[3.0]).value(Moment::VarSamp), None);
        assert_eq!(of(&[3.0]).value(Moment::VarPop), Some(0.0));
        assert!(of(&[3.0, f64::INFINITY]).value(Moment::VarPop).expect("a value").is_nan());
        // A million more on top of 1e9: the textbook's formula has no digit right here.
        near(of(&[1e9 + 1.0, 1e9 + 2.0, 1e9 + 3.0]).value(Moment::VarSamp), 1.0);
        assert_eq!(of(&[1e-200, 3e-200]).value(Moment::StddevPop), Some(0.0));
        near(of(&[1e-140, 3e-140]).value(Moment::StddevPop), 1e-140);
        near(of(&[1e150, 3e150]).value(Moment::StddevPop), 1e150);
    }

    #[test]
    fn a_line_is_found() {
        let mut moments = ExactMoments::default();
        for x in 0..10 {
            moments.add_pair(3.0 * f64::from(x) + 7.0, f64::from(x), 1);
        }
        near(moments.value(Moment::RegrSlope), 3.0);
        near(moments.value(Moment::RegrIntercept), 7.0);
        near(moments.value(Moment::Corr), 1.0);
        near(moments.value(Moment::RegrR2), 1.0);
        near(moments.value(Moment::RegrSxx), 82.5);
        near(moments.value(Moment::CovarSamp), 27.5);
        assert_eq!(moments.value(Moment::RegrAvgx), Some(4.5));
    }

    #[test]
    fn order_and_retractions_leave_no_trace() {
        let mut random = SmallRng::seed_from_u64(seed());
        for _ in 0..300 {
            let count = random.random_range(1..20);
            let value = |random: &mut SmallRng| f64::from_bits(random.random::<u64>() & !(0x1f << 58) | 0x1f << 57);
            let pairs: Vec<(f64, f64)> = (0..count).map(|_| (value(&mut random), value(&mut random))).collect();
            let kept = random.random_range(0..=count);
            let mut all = ExactMoments::default();
            pairs.iter().for_each(|(y, x)| all.add_pair(*y, *x, 1));
            pairs[kept..].iter().for_each(|(y, x)| all.add_pair(*y, *x, -1));
            let mut reversed = ExactMoments::default();
            pairs[..kept].iter().rev().for_each(|(y, x)| reversed.add_pair(*y, *x, 1));
            for moment in Moment::ALL {
                let bits = |of: &ExactMoments| of.value(moment).map(f64::to_bits);
                assert_eq!(bits(&all), bits(&reversed), "{moment:?}");
            }
            let mut bytes = Vec::new();
            all.encode(&mut bytes);
            let mut rest = bytes.as_slice();
            let decoded = ExactMoments::decode(&mut rest).expect("what was encoded");
            assert!(rest.is_empty());
            assert_eq!(decoded.value(Moment::Corr).map(f64::to_bits), all.value(Moment::Corr).map(f64::to_bits));
            pairs[..kept].iter().for_each(|(y, x)| all.add_pair(*y, *x, -1));
            assert!(all.is_empty());
        }
    }
}
