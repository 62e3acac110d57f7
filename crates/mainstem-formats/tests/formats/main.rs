//! The formats through their public API: the rules of `docs/json.md` one by one, and random rows and damage.

mod json_damage;
mod json_encode;
mod json_rules;
mod json_values;
mod random;
