//! What the fuzzer does, without it: the targets over what is saved and over mutations that follow from a seed; and
//! lengths that lie.

mod corpus;
mod lengths;
